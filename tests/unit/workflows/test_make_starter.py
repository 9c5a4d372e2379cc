"""A starter from scratch, with a recipe that trains at once: what is written, found, refused and gone on with."""

import json

import numpy as np
import pytest
from tests.support.card_factory import card_of

from medai.domain import Volume
from medai.errors import CancelledByUserError, InputError, ModelError, NotFoundError
from medai.geometry import VolumeGeometry
from medai.registry.cards import CardFigure, CardGroups, check_starter
from medai.workflows.make_starter import (
    StarterFacts,
    StarterOptions,
    StarterStep,
    TrainedStarter,
    data_root,
    make_starter,
)
from medai.workflows.measured_model import Measured
from medai.workflows.worst_cases import WorstCase, draw_worst_cases


def data_set(folder):
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    (folder / "nodules.csv").write_text("case_id,patient_id\n")
    return folder


class FakeRecipe:
    """Weights are the seed; the figure is read from them."""

    def __init__(self):
        self.trained_with = []
        self.data = []

    @property
    def facts(self):
        names = ("name", "licence", "attribution", "truth", "split")
        return StarterFacts(name="A fake", data=dict.fromkeys(names, "words"), limits=("all of it",))

    def train(self, data, folder, options, *, on_step, should_stop):
        self.trained_with.append(options)
        self.data.append(data)
        assert (data / "lidc_nodules" / "nodules.csv").is_file()
        for epoch in (1, 2):
            if should_stop():
                raise CancelledByUserError("stopped")
            on_step(StarterStep(words=f"Epoch {epoch} of 2", done=epoch, total=2))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "best.safetensors").write_text(str(options.seed or 7))
        return TrainedStarter(
            weights_path=folder / "best.safetensors", config={"seed": options.seed or 7}, how="quick."
        )

    def measure(self, data, weights_path, card_folder, *, device, on_step, should_stop):
        geometry = VolumeGeometry(shape_ijk=(10, 11, 12), affine_ijk_to_ras_mm=np.diag([-0.7, 0.8, 2.0, 1.0]))
        truth = np.zeros(geometry.shape_ijk, bool)
        truth[3:6, 4:8, 5:7] = True
        volume = Volume(geometry=geometry, image_hu=np.full(geometry.shape_ijk, -800, np.int16))
        drawn = draw_worst_cases([WorstCase(case_id="c", words="bad", volume=volume, truth=truth)], card_folder)
        row = CardFigure(name="Dice", value=float(weights_path.read_text()) / 10, low=0.1, high=0.9, n=3)
        return Measured(
            what="nothing",
            figures=(row,),
            groups=(CardGroups(by="size", measure="Dice", rows=(row,)),),
            failures={"what": "one", "in_common": ["nothing"], **drawn},
            commands=("medai evaluate",),
            evaluation={"odd": float("nan")},
        )


@pytest.fixture
def data(tmp_path):
    return data_set(tmp_path / "data" / "lidc_nodules").parent


def test_weights_card_pictures_and_log_lie_in_the_folder(data, tmp_path):
    steps = []
    recipe = FakeRecipe()
    out = tmp_path / "out"
    outcome = make_starter("segmentation", data, out, StarterOptions(), recipe=recipe, on_step=steps.append)
    assert (outcome.task, outcome.card.task) == ("nodule_click", "nodule_click")
    assert check_starter(out, task="nodule_click").training.config == {"seed": 7}
    card = json.loads((out / "card.json").read_text())
    assert card["metrics"]["evaluation"] == {"odd": None}
    assert card["training"]["how"].startswith("quick. On ")
    assert [step.done for step in steps] == [1, 2]
    log = (out / "training.log").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in log] == ["Epoch 1 of 2", "Epoch 2 of 2"]
    assert json.loads(json.dumps(outcome.to_json()))["figures"][0]["value"] == 0.7


def test_options_reach_the_recipe_and_the_card(data, tmp_path):
    recipe = FakeRecipe()
    outcome = make_starter("nodule_click", data, tmp_path / "out", StarterOptions(seed=5, epochs=2), recipe=recipe)
    assert recipe.trained_with == [StarterOptions(seed=5, epochs=2)]
    assert outcome.card.metrics.figures[0].value == 0.5


def test_a_card_can_be_measured_anew_without_training(data, tmp_path):
    recipe, out = FakeRecipe(), tmp_path / "out"
    make_starter("nodule_click", data, out, StarterOptions(), recipe=recipe)
    (out / "weights.safetensors").write_text("9")
    outcome = make_starter("nodule_click", data, out, StarterOptions(), card_only=True, recipe=recipe)
    assert len(recipe.trained_with) == 1
    assert outcome.card.metrics.figures[0].value == 0.9
    assert outcome.card.training.config == {"seed": 7}


def test_a_card_of_nothing_is_refused(data, tmp_path):
    with pytest.raises(InputError, match="no weights at"):
        make_starter("nodule_click", data, tmp_path, StarterOptions(), card_only=True, recipe=FakeRecipe())
    (tmp_path / "weights.safetensors").write_text("1")
    with pytest.raises(InputError, match="does not say how the weights were trained"):
        make_starter("nodule_click", data, tmp_path, StarterOptions(), card_only=True, recipe=FakeRecipe())


def test_stopped_there_is_no_card(data, tmp_path):
    with pytest.raises(CancelledByUserError):
        make_starter(
            "nodule_click", data, tmp_path / "out", StarterOptions(), recipe=FakeRecipe(), should_stop=lambda: True
        )
    assert not (tmp_path / "out" / "card.json").exists()


def test_the_data_may_be_the_folder_itself_whatever_it_is_called(tmp_path):
    inner = data_set(tmp_path / "a" / "lidc_nodules")
    other = data_set(tmp_path / "my nodules")
    assert data_root(inner, tmp_path / "work") == data_root(inner.parent, tmp_path / "work") == inner.parent
    for _ in range(2):
        root = data_root(other, tmp_path / "work")
        assert (root / "lidc_nodules" / "nodules.csv").samefile(other / "nodules.csv")
    assert root.is_relative_to(tmp_path / "work")


def test_data_of_another_layout_are_refused_by_what_is_missing(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match=r"it should hold lidc_nodules/.*masks, nodules\.csv are missing"):
        data_root(tmp_path, tmp_path / "work")
    with pytest.raises(NotFoundError, match="There is no folder"):
        data_root(tmp_path / "none", tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_the_factory_of_the_other_tests_makes_what_this_one_checks(tmp_path):
    (tmp_path / "weights.safetensors").write_text("w")
    card = card_of(tmp_path / "weights.safetensors", "nodule_click", {"cases": [], "montage": "x"})
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match=r"known_failures\.cases"):
        check_starter(tmp_path, task="nodule_click")
