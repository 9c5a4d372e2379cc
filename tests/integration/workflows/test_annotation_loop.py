"""The loop on a real study folder, registry and split; networks are fakes whose weights are the Dice they reach."""

import functools
import json
from dataclasses import dataclass

import numpy as np
import pytest
from tests.support.lung_voxels import lung_hu

from medai.domain import LabelMap, Nodule, NoduleKind, Prediction, Segment, Volume
from medai.errors import InputError, NotFoundError
from medai.geometry import IndexBox, VolumeGeometry
from medai.registry import STARTER, ModelRegistry, version_files
from medai.store.study import StudyStore
from medai.volume_io.writers import write_label_map, write_volume
from medai.workflows.annotation_loop import LoopConfig, LoopModels, play_annotation_loop
from medai.workflows.families import CLICK_TASK, EpochFigures, Family
from medai.workflows.labelled_nodules import collect_labelled_nodules
from medai.workflows.retrain import retrain

GEOMETRY = VolumeGeometry(
    shape_ijk=(20, 22, 24),
    affine_ijk_to_ras_mm=np.array([[-0.7, 0, 0, 5.0], [0, 0, 2.0, -7.0], [0, 0.8, 0, 9.0], [0, 0, 0, 1.0]]),
)
BOX = IndexBox(start_ijk=(3, 4, 5), stop_ijk=(9, 10, 11))


@pytest.fixture
def studies(tmp_path):
    folder = tmp_path / "study"
    truth_folder = folder / ".medai" / "demo_truth"
    truth_folder.mkdir(parents=True)
    labels = np.zeros(GEOMETRY.shape_ijk, np.uint8)
    labels[BOX.slices] = 1
    truth = LabelMap(geometry=GEOMETRY, labels=labels, segments=(Segment(value=1, name="Nodule 1"),))
    for n in range(1, 7):
        image_hu = lung_hu(GEOMETRY.shape_ijk, -800 + n)
        write_volume(Volume(geometry=GEOMETRY, image_hu=image_hu), folder / f"case{n}.nii.gz")
        write_label_map(truth, truth_folder / f"case{n}.nii.gz")
    return folder


@pytest.fixture
def registry(tmp_path):
    starter = tmp_path / "starters" / CLICK_TASK
    starter.mkdir(parents=True)
    (starter / "weights.safetensors").write_text("0.5")
    digest = version_files.sha256_of(starter / "weights.safetensors")
    (starter / "card.json").write_text(json.dumps({"weights_sha256": digest}))
    return ModelRegistry(tmp_path / "models", starter_folder=starter.parent)


def nodule(probability):
    return Nodule(
        box=BOX,
        mask=np.ones(BOX.shape_ijk, bool),
        centre_ras_mm=(0.0, 0.0, 0.0),
        diameter_mm=5.0,
        volume_mm3=100.0,
        kind=NoduleKind.SOLID,
        probability=probability,
    )


@dataclass(frozen=True)
class Answer:
    box: IndexBox
    mask: np.ndarray


class FakeModels:
    """Proposes the nodule where it is sure of the case, and outlines the share of it that its weights say."""

    def __init__(self, dice):
        self.dice = dice
        self.looked_at = []

    def predict(self, volume):
        self.looked_at.append(volume.case_id)
        number = int(volume.case_id[-1])
        probability = 0.5 + 0.05 * number
        found = (nodule(probability),) if number % 2 else ()
        return Prediction(case_id=volume.case_id, geometry=volume.geometry, nodules=found)

    def segment(self, volume, *, foreground_ijk, background_ijk=()):
        # The crop around the nodule is the whole of this small scan.
        mask = np.ones(BOX.shape_ijk, bool)
        mask[round(self.dice * 6) :] = False
        return Answer(BOX, mask)


class Loop:
    """The loop with fakes: each training makes a network with the next of ``trained_dice``."""

    def __init__(self, trained_dice):
        self.trained_dice = list(trained_dice)
        self.loaded = []
        self.steps = []

    def load_models(self, registry, device):
        models = FakeModels(float(registry.champion(CLICK_TASK).weights_path.read_text()))
        self.loaded.append(models)
        return LoopModels(proposer=models, outliner=models)

    def train(self, examples, *, start_from, output_folder, config, on_epoch, should_stop):
        on_epoch(EpochFigures(epoch=config.epochs, total_epochs=config.epochs, loss=0.5))
        output_folder.mkdir(parents=True, exist_ok=True)
        path = output_folder / "challenger.safetensors"
        path.write_text(str(self.trained_dice.pop(0)))
        return path

    def score(self, weights_path, examples, *, device):
        return {e.case_id: float(weights_path.read_text()) for e in examples}

    @property
    def family(self):
        return Family(
            task=CLICK_TASK, measure="Dice", collect=collect_labelled_nodules, train=self.train, score=self.score
        )

    def play(self, studies, registry, **config):
        return list(
            play_annotation_loop(
                studies,
                LoopConfig(**config),
                on_step=self.steps.append,
                load_models=self.load_models,
                retrainer=functools.partial(retrain, family=self.family),
                registry=registry,
            )
        )


def test_every_case_is_annotated_once_and_the_better_model_answers_next(studies, registry):
    loop = Loop([0.7, 0.6, 0.9])
    rounds = loop.play(studies, registry, strategy="first", retrain_every=2)
    assert [r.case_id for r in rounds] == [f"case{n}" for n in range(1, 7)]
    assert StudyStore(studies).unlabeled("final") == []
    assert [r.training.published if r.training else None for r in rounds] == [None, True, None, False, None, True]
    versions = [r.answered_by for r in rounds]
    assert versions[:2] == [STARTER, STARTER]
    assert versions[2] == versions[3] == versions[4] == versions[5] == rounds[1].training.version
    assert registry.champion(CLICK_TASK).version_id == rounds[5].training.version
    assert [models.dice for models in loop.loaded] == [0.5, 0.7]


def test_what_is_submitted_is_the_truth_with_its_names(studies, registry):
    Loop([0.7] * 3).play(studies, registry, strategy="first")
    study = StudyStore(studies)
    assert (
        study.label_path("case1", "final").read_bytes()
        == (studies / ".medai" / "demo_truth" / "case1.nii.gz").read_bytes()
    )
    assert study.label_info("case1", "final")["label_info"] == [{"name": "Nodule 1", "idx": 1}]


def test_reports_count_what_the_annotator_had_to_do(studies, registry):
    first, second = Loop([0.7] * 3).play(studies, registry, strategy="first")[:2]
    assert (first.found, first.clicks, first.proposal_dice, first.first_click_dice) == (1, 0, 1.0, None)
    assert (second.found, second.proposal_dice) == (0, None)
    assert second.clicks >= 1
    assert second.first_click_dice == pytest.approx(2 * 3 / (3 + 6))
    assert "1 of 1 nodules proposed (Dice 1.00); 0 clicks; submitted." in first.describe()
    assert "Retrained in" in second.describe()
    assert "mean Dice 0.500 → 0.700" in second.describe()
    assert second.table_row()[:4] == ("2", "case2", "0 of 1", "0")
    assert second.table_row()[6] == "0.500 → 0.700"
    again = json.loads(json.dumps([first.to_json(), second.to_json()], allow_nan=False))
    assert again[0]["training"] is None
    assert again[1]["training"]["published"] is True
    assert again[1]["missed"] == 1


def test_uncertainty_picks_the_most_doubtful_case_and_looks_again_with_a_new_model(studies, registry):
    loop = Loop([0.7, 0.8, 0.9])
    rounds = loop.play(studies, registry, strategy="uncertainty", retrain_every=2)
    # Odd cases have a finding of probability 0.5 + 0.05 n: the lower n, the less sure; even cases have none.
    assert [r.case_id for r in rounds] == [f"case{n}" for n in (1, 3, 5, 2, 4, 6)]
    assert sorted(loop.loaded[0].looked_at) == [f"case{n}" for n in range(1, 7)]
    assert sorted(loop.loaded[1].looked_at) == ["case2", "case4", "case5", "case6"]


def test_one_patient_is_not_enough_to_train_and_the_loop_goes_on(studies, registry):
    rounds = Loop([0.7] * 6).play(studies, registry, strategy="first", retrain_every=1)
    assert rounds[0].training is None
    assert "at least two patients" in rounds[0].no_training
    assert "Not retrained: 1 case has a usable" in rounds[0].describe()
    assert all(r.training for r in rounds[1:])


def test_the_last_case_is_always_trained_on(studies, registry):
    rounds = Loop([0.7, 0.8]).play(studies, registry, strategy="first", retrain_every=4)
    assert [r.training is not None for r in rounds] == [False, False, False, True, False, True]


def test_the_same_seed_plays_the_same_loop(studies, registry, tmp_path):
    def orders(seed):
        for label in (studies / "labels" / "final").glob("*"):
            label.unlink()
        return [
            r.case_id for r in Loop([0.1] * 6).play(studies, registry, strategy="random", retrain_every=6, seed=seed)
        ]

    assert orders(3) == orders(3)
    assert len({tuple(orders(seed)) for seed in range(4)}) > 1


def test_a_study_without_known_truth_is_refused(tmp_path, registry):
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match="make a demo study first"):
        Loop([]).play(tmp_path / "empty", registry)


def test_steps_are_told_in_words(studies, registry):
    loop = Loop([0.7] * 3)
    loop.play(studies, registry, strategy="first")
    assert loop.steps[0] == "Loading model starter"
    assert "Round 1: annotating case1" in loop.steps
    assert "Round 2: Judging the new model" in loop.steps


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"strategy": "luck"}, "no strategy 'luck': choose one of default, random, first"),
        ({"retrain_every": 0}, "must be 1"),
    ],
)
def test_configurations_that_cannot_be_played(values, message):
    with pytest.raises(InputError, match=message):
        LoopConfig(**values)
