"""A scan that is not in Hounsfield units is answered by no task and taken by no door; the reason reaches the client."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from tests.integration.server.conftest import SHAPE_IJK, Served, affines, make_study, serve

REASON = "HU + 1024: subtract 1024"
CASE = "case_shifted"
TASKS = ("nodule_segmentation", "nodule_click", "nodule_detection", "nodule_classification", "lungs")


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The study of three scans, and one of them once more as HU + 1024."""
    study = make_study(tmp_path_factory.mktemp("spoiled") / "study")
    good = nib.load(study / "case_oblique.nii.gz")
    shifted = (np.asarray(good.dataobj).astype(np.int32) + 1024).astype(np.uint16)
    nib.save(nib.Nifti1Image(shifted, good.affine), study / f"{CASE}.nii.gz")
    yield from serve(study)


def params(**given: Any) -> dict[str, str]:
    return {"params": json.dumps({"label": "nodule", "foreground": [[8, 9, 10]], "background": [], **given})}


def check_refused(reply: Any) -> None:
    assert reply.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert "does not look like a chest CT in Hounsfield units" in reply.json()["detail"]
    assert REASON in reply.json()["detail"]


@pytest.mark.parametrize("task", TASKS)
def test_a_case_of_the_study_is_not_answered(spoiled: Served, task: str) -> None:
    for _ in range(2):
        check_refused(spoiled.client.post(f"/infer/{task}?image={CASE}", data=params()))


@pytest.mark.parametrize("task", TASKS)
def test_an_uploaded_file_and_a_session_are_not_answered(spoiled: Served, task: str) -> None:
    content = (spoiled.study / f"{CASE}.nii.gz").read_bytes()
    check_refused(
        spoiled.client.post(f"/infer/{task}", data=params(), files={"file": ("scan.nii.gz", content)}),
    )
    created = spoiled.client.put("/session/", files=[("files", ("mine.nii.gz", content))])
    if created.status_code != HTTPStatus.OK:
        check_refused(created)
        return
    session = created.json()["session_id"]
    check_refused(spoiled.client.post(f"/infer/{task}?session_id={session}", data=params()))


def test_scribbles_are_not_answered(spoiled: Served, tmp_path: Path) -> None:
    strokes = np.zeros(SHAPE_IJK, np.uint8)
    strokes[8, 9, 9:12], strokes[2:4, 2:9, 10] = 3, 2
    nib.save(nib.Nifti1Image(strokes, affines()["case_oblique"]), tmp_path / "strokes.nii.gz")
    files = {"label": ("strokes.nii.gz", (tmp_path / "strokes.nii.gz").read_bytes())}
    check_refused(
        spoiled.client.post(f"/infer/Histogram%2BGraphCut?image={CASE}", data={"params": "{}"}, files=files),
    )


def test_it_is_not_taken_into_the_study(spoiled: Served) -> None:
    content = (spoiled.study / f"{CASE}.nii.gz").read_bytes()
    check_refused(spoiled.client.put("/datastore/image?image=another", files={"file": ("another.nii.gz", content)}))
    assert not list(spoiled.study.glob("another*"))


def test_a_batch_names_it_and_counts_no_answer_for_it(spoiled: Served) -> None:
    started = spoiled.client.post("/batch/infer/nodule_segmentation?images=all", json={"save_label": False})
    assert started.status_code == HTTPStatus.OK
    deadline = time.monotonic() + 20
    while (record := spoiled.client.get("/batch/infer").json())["status"] in ("SUBMITTED", "RUNNING"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    answer = json.dumps(record["result"].get(CASE, ""), ensure_ascii=False)
    assert "label_names" not in answer
    assert "no nodules" not in answer
    assert REASON in json.dumps(record, ensure_ascii=False)
    assert "label_names" in json.dumps(record["result"]["case_oblique"])


def test_the_good_scans_are_answered(spoiled: Served) -> None:
    assert spoiled.click().status_code == HTTPStatus.OK
