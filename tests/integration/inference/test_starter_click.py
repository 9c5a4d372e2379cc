"""The starter weights on real nodules of held-back patients: they outline them, and clicks mend what is wrong."""

from pathlib import Path

import numpy as np
import pytest

import medai
from medai.domain.click_case import ClickCase
from medai.evaluation.dice import dice
from medai.evaluation.simulated_clicks import correcting_click, first_click
from medai.inference.click import ClickSegmenter
from medai.inference.evaluate_click import evaluate_click_model
from medai.networks.checkpoint import weights_digest
from medai.networks.engine import Engine, load_engine
from medai.training.dataset import split_by_patient
from medai.training.lidc import lidc_cases

pytestmark = pytest.mark.real_data

STARTER = Path(medai.__file__).parent / "registry" / "starter" / "nodule_click"


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Engine:
    return load_engine(STARTER / "weights.safetensors", device="cpu", cache_folder=tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def crops(real_data) -> list[ClickCase]:
    return split_by_patient(lidc_cases(real_data / "lidc_nodules"))[1][::8]


@pytest.fixture(scope="module")
def cubes(real_data) -> list[ClickCase]:
    return split_by_patient(lidc_cases(real_data / "lidc_cubes"))[1][::2]


def test_one_careful_click_outlines_most_of_a_nodule(engine, crops, cubes):
    assert np.mean(evaluate_click_model(engine, crops, seed=3)) > 0.75
    assert np.mean(evaluate_click_model(engine, cubes, seed=3)) > 0.65


def test_two_corrections_make_it_better(engine, cubes):
    one = evaluate_click_model(engine, cubes, seed=3)
    three = evaluate_click_model(engine, cubes, seed=3, clicks=3)
    assert np.mean(three) > np.mean(one) + 0.02


def test_a_background_click_on_what_was_taken_by_mistake_removes_it(engine, crops, cubes):
    segmenter = ClickSegmenter(engine)
    helped = []
    for number, case in enumerate((*crops[::3], *cubes)):
        rng = np.random.default_rng([9, number])
        inside = first_click(case, rng, careful=True)
        before = outlined(segmenter, case, [inside], [])
        # What was left out is not looked at: only what a background click can mend.
        mistake = correcting_click(before | case.mask, case.mask, np.ones_like(case.mask), rng)
        if mistake is not None:
            after = outlined(segmenter, case, [inside], [mistake[0]])
            assert not after[mistake[0]]
            helped.append((after & ~case.mask).sum() < (before & ~case.mask).sum())
    assert np.mean(helped) > 0.9


def test_the_same_nodule_stored_flipped_gets_the_same_outline(engine, cubes):
    segmenter = ClickSegmenter(engine)
    case = cubes[0]
    click = first_click(case, np.random.default_rng(1), careful=True)
    expected = outlined(segmenter, case, [click], [])
    geometry = case.volume.geometry
    flip = np.diag([-1.0, 1.0, 1.0, 1.0])
    flip[0, 3] = geometry.shape_ijk[0] - 1
    from medai.domain import Volume
    from medai.geometry import VolumeGeometry

    flipped = ClickCase(
        case_id="flipped",
        patient_id="p",
        volume=Volume(
            geometry=VolumeGeometry(
                shape_ijk=geometry.shape_ijk, affine_ijk_to_ras_mm=geometry.affine_ijk_to_ras_mm @ flip
            ),
            image_hu=case.volume.image_hu[::-1],
        ),
        mask=case.mask[::-1],
    )
    found = outlined(segmenter, flipped, [(geometry.shape_ijk[0] - 1 - click[0], click[1], click[2])], [])
    assert dice(found[::-1], expected) > 0.999


def test_the_card_belongs_to_the_weights_and_says_where_they_come_from():
    import json

    card = json.loads((STARTER / "card.json").read_text(encoding="utf-8"))
    assert card["weights_sha256"] == weights_digest(STARTER / "weights.safetensors")
    assert card["data"]["licence"] == "CC BY 3.0"
    assert "LIDC-IDRI" in card["data"]["attribution"]
    assert (STARTER / "weights.safetensors").stat().st_size < 6_000_000  # a few MB: it travels in the package


def outlined(segmenter, case, foreground, background):
    result = segmenter.segment(case.volume, foreground_ijk=foreground, background_ijk=background)
    mask = np.zeros(case.mask.shape, dtype=bool)
    mask[result.box.slices] = result.mask
    return mask
