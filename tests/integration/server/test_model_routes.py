"""``/medai/models``: cards as JSON and as pages, and the pictures they name."""

from http import HTTPStatus

import numpy as np
import pytest
from tests.support.card_factory import make_starter

from medai.evaluation.promotion import judge
from medai.registry.model_registry import ModelRegistry

BROWSER = {"accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"}


@pytest.fixture
def cards(served, tmp_path):
    make_starter(tmp_path / "starters")
    served.app.models = ModelRegistry(tmp_path / "models", starter_folder=tmp_path / "starters")
    return served


def test_models_are_listed_with_their_first_figure(cards):
    models = {model["task"]: model for model in cards.client.get("/medai/models").json()["models"]}
    assert list(models) == ["nodule_click", "nodule_detection", "nodule_classification"]
    assert models["nodule_click"]["figure"] == {
        "name": "Dice, one click",
        "value": 0.8123,
        "low": 0.79,
        "high": 0.83,
        "n": 12,
    }
    assert models["nodule_detection"]["version_id"] == ""
    assert "no weights" in models["nodule_detection"]["words"]
    page = cards.client.get("/medai/models", headers=BROWSER)
    assert page.headers["content-type"].startswith("text/html")
    assert "/medai/models/nodule_click/card?format=html" in page.text


def test_a_card_is_served_with_its_pictures(cards):
    shown = cards.client.get("/medai/models/segmentation/card").json()
    assert shown["card"]["data"]["licence"] == "CC BY 3.0"
    assert len(shown["pictures"]) == 3
    for url in shown["pictures"].values():
        reply = cards.client.get(url)
        assert reply.headers["content-type"] == "image/png"
        assert reply.content.startswith(b"\x89PNG")


def test_a_browser_gets_a_page_without_scripts(cards):
    page = cards.client.get("/medai/models/nodule_click/card", headers=BROWSER).text
    assert "A model &lt;of tests&gt;" in page
    assert "0.812 (0.790–0.830)" in page
    assert 'src="/medai/models/nodule_click/pictures/worst_01.png"' in page
    assert "<script" not in page
    as_json = cards.client.get("/medai/models/nodule_click/card?format=json", headers=BROWSER)
    assert as_json.json()["version_id"] == "starter"


def test_a_studys_own_model_shows_where_it_comes_from(cards, tmp_path):
    weights = tmp_path / "w.safetensors"
    weights.write_text("better")
    verdict = judge({"a": 0.7}, {"a": 0.9}, rng=np.random.default_rng(0))
    card = {"trained_from": "starter", "trained_on": ["a<b"], "judged_on": ["c"], "epochs": 2, "seed": 1}
    version = cards.app.models.publish("nodule_click", weights, card, verdict)
    shown = cards.client.get("/medai/models/nodule_click/card").json()
    assert shown["version_id"] == version.version_id
    assert shown["verdict"]["reason"] == verdict.reason
    page = cards.client.get("/medai/models/nodule_click/card?format=html").text
    assert "a&lt;b" in page
    assert "0.700 → 0.900" in page
    former = cards.client.get("/medai/models/nodule_click/card?version=starter").json()
    assert former["card"]["name"] == "A model <of tests>"


def test_the_history_is_served_with_the_refused_ones(cards, tmp_path):
    assert cards.client.get("/medai/models/nodule_click/history").json() == {"task": "nodule_click", "events": []}
    weights = tmp_path / "w.safetensors"
    weights.write_text("better")
    good = judge({"a": 0.7}, {"a": 0.9}, rng=np.random.default_rng(0))
    version = cards.app.models.publish("nodule_click", weights, {}, good)
    bad = judge({"a": 0.9}, {"a": 0.8}, rng=np.random.default_rng(0))
    cards.app.models.record_refusal("nodule_click", bad, judged_against=version.version_id)
    cards.app.models.rollback("nodule_click", who="<Ann>", reason="it leaks")
    events = cards.client.get("/medai/models/segmentation/history").json()["events"]
    assert [event["kind"] for event in events] == ["published", "refused", "rolled back"]
    assert events[1]["verdict"]["reason"] == bad.reason
    page = cards.client.get("/medai/models/nodule_click/history", headers=BROWSER).text
    assert "&lt;Ann&gt;" in page
    assert bad.reason.split(",")[0] in page
    assert "<script" not in page


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/medai/models/lungs/card", HTTPStatus.NOT_FOUND),
        ("/medai/models/lungs/history", HTTPStatus.NOT_FOUND),
        ("/medai/models/nodule_click/card?version=v0009-00000000", HTTPStatus.NOT_FOUND),
        ("/medai/models/nodule_click/card?format=pdf", HTTPStatus.UNPROCESSABLE_ENTITY),
        ("/medai/models/nodule_click/pictures/other.png", HTTPStatus.NOT_FOUND),
        ("/medai/models/nodule_click/pictures/..%2Fcard.json", HTTPStatus.NOT_FOUND),
        ("/medai/models/nodule_click/pictures/..%2F..%2Fcard.json", HTTPStatus.NOT_FOUND),
    ],
)
def test_what_is_not_there_is_said(cards, path, status):
    reply = cards.client.get(path)
    assert reply.status_code == status
    assert "detail" in reply.json()
