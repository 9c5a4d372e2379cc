"""Retraining with the real trainer, engine and judge, on a network small enough for a test."""

import json
import math

import numpy as np
import pytest

from medai.domain import LabelMap, NoduleKind, Segment, Volume
from medai.domain.click_case import ClickCase
from medai.errors import CancelledByUserError
from medai.evaluation.promotion import PromotionRules
from medai.geometry import VolumeGeometry
from medai.registry import STARTER, ModelRegistry
from medai.store.study import StudyStore
from medai.volume_io.writers import write_label_map, write_volume
from medai.workflows import click_regression, click_replay
from medai.workflows.click_challenger import score_click_network
from medai.workflows.labelled_nodules import collect_labelled_nodules
from medai.workflows.retrain import CLICK_TASK, RetrainConfig, retrain
from medai.workflows.training_runs import latest_report, latest_stats

GEOMETRY = VolumeGeometry(
    shape_ijk=(40, 44, 30),
    affine_ijk_to_ras_mm=np.array([[-0.8, 0, 0, 5.0], [0, 0.9, 0, -7.0], [0, 0, 1.5, 9.0], [0, 0, 0, 1.0]]),
)


@pytest.fixture
def study(tmp_path, rng):
    folder = tmp_path / "study"
    folder.mkdir()
    store = StudyStore(folder)
    centre_ras_mm = GEOMETRY.ijk_to_ras((20, 22, 15))
    points = GEOMETRY.ijk_to_ras(np.stack(np.indices(GEOMETRY.shape_ijk), axis=-1))
    for n in range(3):
        nodule = np.linalg.norm(points - centre_ras_mm, axis=-1) <= 5.0 + n
        image_hu = np.where(nodule, 30, -850) + rng.normal(0, 20, GEOMETRY.shape_ijk)
        write_volume(Volume(geometry=GEOMETRY, image_hu=image_hu.astype(np.int16)), folder / f"case{n}.nii.gz")
        labels = LabelMap(
            geometry=GEOMETRY, labels=nodule.astype(np.uint8), segments=(Segment(value=1, name="nodule"),)
        )
        write_label_map(labels, tmp_path / "label.nii.gz")
        store.save_label(f"case{n}", tmp_path / "label.nii.gz", "final")
    return store


@pytest.fixture(autouse=True)
def two_old_nodules(monkeypatch):
    """The regression set without the seconds that its phantoms take."""

    def make(seed):
        nodule = np.zeros((40, 44, 30), bool)
        nodule[15:25, 17:27, 11:19] = True
        volume = Volume(geometry=GEOMETRY, image_hu=np.where(nodule, 30, -850).astype(np.int16))
        name = f"phantom-{seed}"
        return [(ClickCase(case_id=name, patient_id=name, volume=volume, mask=nodule), NoduleKind.SOLID, 8.0)]

    monkeypatch.delenv("MEDAI_REAL_DATA", raising=False)
    monkeypatch.setattr(click_regression, "phantom_nodules", make)


def _phantom_nodules(seed):
    mask = np.zeros((30, 31, 18), dtype=bool)
    mask[12:18, 12:18, 7:11] = True
    geometry = VolumeGeometry(shape_ijk=mask.shape, affine_ijk_to_ras_mm=np.diag([-0.8, 0.8, 1.25, 1.0]))
    volume = Volume(geometry=geometry, image_hu=np.where(mask, 30, -850).astype(np.int16), case_id=f"phantom{seed}")
    return [ClickCase(case_id=f"phantom{seed}#1", patient_id=f"phantom{seed}", volume=volume, mask=mask)]


@pytest.fixture
def registry(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv(click_replay.REAL_DATA_VARIABLE, raising=False)
    # A phantom takes ten seconds to make; what is done with its nodules is tested with nodules of the study's kind.
    monkeypatch.setattr(click_replay, "_make_phantom_nodules", _phantom_nodules)
    import torch

    from medai.networks.checkpoint import save_checkpoint
    from medai.networks.factory import build_network, network_tensors

    network = {"channels_in": 5, "channels_out": 2, "channels": [2, 4], "blocks": [1, 1]}
    config = {"network": "residual_unet", "network_options": network}
    config |= {"task": CLICK_TASK, "patch_shape": [32, 32, 32], "spacing_mm": 0.9}
    config |= {"fill": 0.55, "finest_mm": 0.5, "coarsest_mm": 2.4}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        tensors = network_tensors(build_network(config))
    starter = tmp_path / "starters" / CLICK_TASK
    save_checkpoint(starter / "weights.safetensors", tensors, config)
    (starter / "card.json").write_text("{}")
    return ModelRegistry(tmp_path / "models", starter_folder=starter.parent)


def test_the_whole_trip_with_a_real_network(study, registry, tmp_path):
    seen = []
    config = RetrainConfig(epochs=1, device="cpu")
    report = retrain(study, registry, config, on_progress=seen.append, should_stop=lambda: False)
    champion = registry.champion(CLICK_TASK)
    is_better = report.challenger_score > report.champion_score + PromotionRules().margin
    assert report.published == (is_better and "old cases" not in report.reason)
    assert {(s.by, s.group) for s in report.verdict.subgroups} >= {("size", "8-15 mm"), ("texture", "solid")}
    assert [event.reason for event in registry.history(CLICK_TASK)] == [report.reason]
    assert (champion.version_id == STARTER) == (not report.published)
    # A published network is converted before it is asked for.
    converted = list((tmp_path / "state" / "medai" / "engines").glob("*/model.xml"))
    assert [path.parent.name[:24] for path in converted] == (
        [champion.card["weights_sha256"][:24]] if report.published else []
    )
    losses = [step.loss for step in seen if step.stage == "train"]
    assert losses[:2] == [None, None]  # the stage, and the weights the training starts from
    assert all(loss is not None and math.isfinite(loss) for loss in losses[2:])
    json.dumps(latest_stats(study.folder), allow_nan=False)
    assert latest_report(study.folder)["reason"] == report.reason
    # What is served scores what the report says it scores.
    nodules = collect_labelled_nodules(study)
    again = score_click_network(champion.weights_path, nodules.held_back, device="cpu")
    expected = report.verdict.challenger_score if report.published else report.verdict.champion_score
    assert again == pytest.approx(dict(expected), abs=1e-6)
    assert not list((study.folder / ".medai" / "training").glob("*/work"))


def test_an_interrupted_training_goes_on_from_its_last_epoch(study, registry):
    def train(should_stop, seen):
        return retrain(
            study,
            registry,
            RetrainConfig(epochs=3, device="cpu"),
            on_progress=lambda progress: seen.append((progress.stage, progress.epoch)),
            should_stop=should_stop,
            is_interrupted=lambda: True,
        )

    first, second = [], []
    with pytest.raises(CancelledByUserError):
        train(lambda: ("train", 2) in first, first)
    assert len(list((study.folder / ".medai" / "training").glob("*/work/training_state.pt"))) == 1
    report = train(lambda: False, second)
    assert report.resumed
    assert [epoch for stage, epoch in second if stage == "train"] == [0, 3]
    assert not list((study.folder / ".medai" / "training").glob("*/work"))


def test_stopped_while_the_network_trains(study, registry):
    stages = []
    with pytest.raises(CancelledByUserError):
        retrain(
            study,
            registry,
            RetrainConfig(epochs=50, device="cpu"),
            on_progress=lambda progress: stages.append(progress.stage),
            should_stop=lambda: stages.count("train") >= 3,
        )
    assert registry.champion(CLICK_TASK).version_id == STARTER
    assert "judge challenger" not in stages
    assert not list((study.folder / ".medai" / "training").glob("*/work"))
