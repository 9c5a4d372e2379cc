"""The demo study: layout, truth, and completing one that was interrupted."""

import json

import nibabel
import numpy as np
import pytest

from medai.errors import InputError
from medai.phantom.study import make_demo_study

GRID = {"shape_ijk": (72, 66, 60), "spacing_mm": (4.6, 4.6, 4.9)}


def test_layout_and_truth(tmp_path):
    steps = []
    study = tmp_path / "study"
    cases = make_demo_study(study, case_count=2, seed=3, on_progress=lambda done, n: steps.append((done, n)), **GRID)
    assert steps == [(0, 2), (1, 2), (2, 2)]
    assert sorted(p.name for p in study.glob("*.nii.gz")) == ["phantom-001.nii.gz", "phantom-002.nii.gz"]
    for case in cases:
        image, truth = nibabel.load(case.image_path), nibabel.load(case.truth_path)
        facts = json.loads(case.facts_path.read_text())
        np.testing.assert_allclose(image.affine, truth.affine, atol=1e-4)
        assert image.shape == truth.shape == GRID["shape_ijk"]
        labels = np.asarray(truth.dataobj)
        assert 1 <= len(facts["nodules"]) <= 4
        assert set(np.unique(labels)) == {0, *(n["value"] for n in facts["nodules"])}
        for nodule in facts["nodules"]:
            index = np.argwhere(labels == nodule["value"]).mean(axis=0)
            place = nibabel.affines.apply_affine(truth.affine, index)
            np.testing.assert_allclose(place, nodule["centre_ras_mm"], atol=2.0)
    assert not list(study.rglob("*.part.*"))


def test_an_interrupted_study_is_completed_and_the_rest_left_alone(tmp_path):
    cases = make_demo_study(tmp_path, case_count=2, seed=3, **GRID)
    wanted = np.asarray(nibabel.load(cases[1].image_path).dataobj)
    kept = cases[0].image_path.stat().st_mtime_ns
    cases[1].image_path.unlink()
    steps = []
    make_demo_study(tmp_path, case_count=2, seed=3, on_progress=lambda done, n: steps.append(done), **GRID)
    assert steps == [1, 2]
    assert cases[0].image_path.stat().st_mtime_ns == kept
    np.testing.assert_array_equal(np.asarray(nibabel.load(cases[1].image_path).dataobj), wanted)


def test_no_case_is_refused(tmp_path):
    with pytest.raises(InputError, match="case_count is 0"):
        make_demo_study(tmp_path, case_count=0)
