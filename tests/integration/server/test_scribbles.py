"""MONAI Label's scribbles on a region: kept inside it, coarser where it is large, refused without a stroke."""

from __future__ import annotations

import json
from http import HTTPStatus
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from tests.integration.server.conftest import SHAPE_IJK, SPACING_MM, affines
from tests.integration.server.test_infer_routes import parts

from medai.server import scribbles_task
from medai.volume_io.readers import read_label_map

INFO = [
    {"name": "background_scribbles", "id": 5},
    {"name": "nodule", "id": 3},
    {"name": "foreground_scribbles", "id": 7},
]


def strokes(case_id: str = "case_oblique", *, foreground: bool = True) -> nib.Nifti1Image:
    labels = np.zeros(SHAPE_IJK, dtype=np.uint8)
    if foreground:
        labels[8, 9, 9:12] = 7
        labels[8, 9:11, 10] = 7
    labels[2:4, 2:20, 10] = 5
    labels[18, 20, 20] = 3
    return nib.Nifti1Image(labels, affines()[case_id])


def ask(served: Any, folder: Path, image: nib.Nifti1Image, **params: Any) -> Any:
    nib.save(image, folder / "strokes.nii.gz")
    params = {"label_info": INFO, "selected_label_name": "Nodule A", **params}
    with (folder / "strokes.nii.gz").open("rb") as file:
        return served.client.post(
            "/infer/Histogram%2BGraphCut?image=case_oblique",
            data={"params": json.dumps(params)},
            files={"label": ("strokes.nii.gz", file)},
        )


def answer(reply: Any, folder: Path) -> np.ndarray:
    params, name, payload = parts(reply)
    assert params["label_names"] == {"Nodule A": 1}
    (folder / name).write_bytes(payload)
    labels: np.ndarray = read_label_map(folder / name).labels
    return labels


def ball() -> np.ndarray:
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE_IJK], indexing="ij"), axis=-1)
    inside: np.ndarray = np.linalg.norm((grid - np.array([8, 9, 10])) * SPACING_MM, axis=-1) < 3.5
    return inside


def dice(labels: np.ndarray) -> float:
    return float(2 * np.sum((labels > 0) & ball()) / (np.sum(labels > 0) + ball().sum()))


def test_the_ball_is_cut_out_without_a_region(shared, tmp_path: Path):
    assert dice(answer(ask(shared, tmp_path, strokes()), tmp_path)) > 0.9


def test_nothing_outside_the_region(shared, tmp_path: Path):
    labels = answer(ask(shared, tmp_path, strokes(), roi=[15, 4, 7, 19, 4, 16]), tmp_path)
    assert labels[4:16, 7:20, 4:17].sum() == labels.sum() > 0


def test_a_large_region_is_cut_on_a_coarser_grid(shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scribbles_task, "LARGEST_REGION_VOXELS", 2500)
    assert dice(answer(ask(shared, tmp_path, strokes(), roi=[0, 19, 0, 21, 0, 23]), tmp_path)) > 0.7


def test_a_label_map_with_reversed_axes_is_understood(shared, tmp_path: Path):
    image = strokes()
    turned = image.as_reoriented(np.array([[0, -1], [1, -1], [2, 1]]))
    assert dice(answer(ask(shared, tmp_path, turned), tmp_path)) > 0.9


@pytest.mark.parametrize(
    ("image", "params", "says"),
    [
        (strokes(foreground=False), {}, "no foreground scribble"),
        (strokes(), {"roi": [15, 19, 0, 21, 0, 23]}, "no foreground scribble"),
        (strokes("case_flipped"), {}, "The scribbles have"),
        (strokes(), {"label_info": "x"}, "'label_info' is 'x'"),
        (strokes(), {"label_info": [{"name": "foreground_scribbles", "id": "7"}]}, "whole number"),
        (strokes(), {"sigma": "wide"}, "'sigma' is 'wide'"),
    ],
)
def test_what_cannot_be_cut_is_refused(shared, tmp_path: Path, image: Any, params: dict[str, Any], says: str):
    reply = ask(shared, tmp_path, image, **params)
    assert reply.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert says in reply.json()["detail"]
