"""What a model card must hold; a card that says less is refused by name of what it lacks."""

import json

import pytest
from tests.support.card_factory import make_starter

from medai.errors import ModelError
from medai.registry.cards import StudyCard, check_starter, picture_names, read_card
from medai.registry.version_files import ModelVersion


@pytest.fixture
def starter(tmp_path):
    make_starter(tmp_path)
    return tmp_path / "nodule_click"


def rewrite(folder, change):
    card = json.loads((folder / "card.json").read_text())
    change(card)
    (folder / "card.json").write_text(json.dumps(card))


def test_a_complete_card_is_read(starter):
    card = check_starter(starter)
    assert card.metrics.figures[0].low == 0.79
    assert list(picture_names(card)) == ["pictures/worst.png", "pictures/worst_01.png", "pictures/worst_02.png"]


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("data", "licence"),
        ("data", "attribution"),
        ("data", "split"),
        ("training", "config"),
        ("metrics", "figures"),
        ("metrics", "groups"),
        ("known_failures", "in_common"),
        ("known_failures", "cases"),
    ],
)
def test_what_a_card_lacks_is_named(starter, part, key):
    rewrite(starter, lambda card: card[part].pop(key))
    with pytest.raises(ModelError, match=rf"nodule_click' is not complete \({part}\.{key}: field required"):
        check_starter(starter)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "good"])
def test_a_figure_is_a_number(starter, value):
    rewrite(starter, lambda card: card["metrics"]["figures"][0].update(value=value))
    with pytest.raises(ModelError, match=r"metrics\.figures\.0\.value"):
        check_starter(starter)


def test_a_card_of_other_weights_or_another_task_is_refused(starter):
    (starter / "weights.safetensors").write_text("others")
    with pytest.raises(ModelError, match="is of other weights"):
        check_starter(starter)
    with pytest.raises(ModelError, match="is of task 'nodule_click'"):
        check_starter(starter, task="nodule_detection")


def test_pictures_must_be_there_and_small(starter):
    (starter / "pictures/worst_02.png").write_bytes(b"x" * 50_000)
    with pytest.raises(ModelError, match="more than 40 KB"):
        check_starter(starter)
    (starter / "pictures/worst_02.png").unlink()
    with pytest.raises(ModelError, match=r"names the picture pictures/worst_02\.png, which is not there"):
        check_starter(starter)


def test_a_studys_model_has_a_card_of_its_own(tmp_path):
    card = {"version_id": "v0001-0a0b0c0d", "weights_sha256": "0" * 64, "trained_from": "starter", "epochs": 3}
    version = ModelVersion(task="nodule_click", version_id="v0001-0a0b0c0d", weights_path=tmp_path / "w", card=card)
    read = read_card(version)
    assert isinstance(read, StudyCard)
    assert (read.trained_from, read.epochs) == ("starter", 3)
    assert picture_names(read) == {}
