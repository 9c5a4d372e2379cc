"""The real nodules the starter weights are trained on: LIDC-IDRI crops and cubes (CC BY 3.0) as click cases.

The crops of ``lidc_nodules`` end at the nodule's first and last slice. Padding them with air or with copies of the last
slice would teach the network that a nodule ends where its file does, so that ``continued`` adds slices in which the
surroundings run on and the nodule is painted over with what lies beside it.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medai.domain import Volume
from medai.domain.click_case import ClickCase
from medai.errors import InputError
from medai.geometry import IndexBox
from medai.volume_io.plausibility import read_chest_ct
from medai.volume_io.readers import read_label_map

CONTINUATION_MM = 18.0
"""How far the surroundings are continued above and below a crop: half of a fine patch."""
_RING_MM = 1.6
"""Partial-volume rim around a reader's mask that is painted over too."""


def lidc_cases(folder: Path, patients: set[str] | None = None) -> list[ClickCase]:
    """Read a folder of ``images/``, ``masks/`` and ``nodules.csv`` (``lidc_nodules`` or ``lidc_cubes``).

    Args:
        folder: where it lies.
        patients: keep only these, None for all.

    Raises:
        InputError: there is no ``nodules.csv``.
    """
    table = folder / "nodules.csv"
    if not table.is_file():
        raise InputError(f"{table} does not exist: name a folder that holds images/, masks/ and nodules.csv.")
    with table.open(newline="", encoding="utf-8") as rows:
        listed = [(row["case_id"], row["patient_id"]) for row in csv.DictReader(rows)]
    cases: list[ClickCase] = []
    for case_id, patient_id in listed:
        if patients is None or patient_id in patients:
            volume, mask = _read_pair(folder, case_id)
            if np.any(mask):
                cases.append(ClickCase(case_id=case_id, patient_id=patient_id, volume=volume, mask=mask))
    return cases


def lidc_patients(folder: Path) -> set[str]:
    """The patients of a folder with ``nodules.csv``."""
    with (folder / "nodules.csv").open(newline="", encoding="utf-8") as rows:
        return {row["patient_id"] for row in csv.DictReader(rows)}


def series_uids(folder: Path) -> dict[str, str]:
    """Case id to SeriesInstanceUID, from the table of ``lidc_nodules``; empty where it has no such column."""
    with (folder / "nodules.csv").open(newline="", encoding="utf-8") as rows:
        listed = list(csv.DictReader(rows))
    return {row["case_id"]: row["series_instance_uid"] for row in listed if row.get("series_instance_uid")}


def continued(case: ClickCase, rng: np.random.Generator) -> ClickCase:
    """Add slices above and below a crop in which the surroundings run on without the nodule.

    Args:
        case: a crop whose third axis is cut at the nodule.
        rng: noise of the added slices.

    Returns:
        The case on a longer grid; the mask is empty in the added slices.
    """
    geometry = case.volume.geometry
    count = int(np.ceil(CONTINUATION_MM / geometry.spacing_mm[2]))
    image = np.asarray(case.volume.image_hu, dtype=np.float32)
    below = _continuation(image[..., 0], case.mask[..., 0], geometry.spacing_mm[:2], count, rng)
    above = _continuation(image[..., -1], case.mask[..., -1], geometry.spacing_mm[:2], count, rng)
    joined = np.concatenate([below, image, above], axis=2)
    box = IndexBox(start_ijk=(0, 0, -count), stop_ijk=(joined.shape[0], joined.shape[1], geometry.shape_ijk[2] + count))
    return ClickCase(
        case_id=case.case_id,
        patient_id=case.patient_id,
        volume=Volume(
            geometry=geometry.crop(box), image_hu=np.round(joined).astype(np.int16), case_id=case.volume.case_id
        ),
        mask=np.pad(case.mask, ((0, 0), (0, 0), (count, count))),
        readers=None if case.readers is None else np.pad(case.readers, ((0, 0), (0, 0), (count, count))),
    )


def _read_pair(folder: Path, case_id: str) -> tuple[Volume, NDArray[np.bool_]]:
    """The scan region and the mask of one nodule."""
    volume = read_chest_ct(folder / "images" / f"{case_id}.nii.gz")
    label_map = read_label_map(folder / "masks" / f"{case_id}.nii.gz")
    return volume, np.asarray(label_map.labels) != 0


def _continuation(
    edge_hu: NDArray[np.float32],
    edge_mask: NDArray[np.bool_],
    spacing_mm: tuple[float, ...],
    count: int,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """``count`` noisy copies of an outermost slice with the nodule painted over, shape (i, j, count)."""
    from scipy import ndimage

    painted = edge_hu.copy()
    if np.any(edge_mask) and not np.all(edge_mask):
        hidden = ndimage.distance_transform_edt(~edge_mask, sampling=spacing_mm) <= _RING_MM
        hidden &= ~_is_border(hidden.shape)
        nearest = ndimage.distance_transform_edt(hidden, return_distances=False, return_indices=True)
        filled = edge_hu[tuple(nearest)]
        painted[hidden] = ndimage.gaussian_filter(filled, sigma=2.0)[hidden]
    noise_hu = ndimage.gaussian_filter(rng.normal(0.0, 1.0, (*edge_hu.shape, count)), (0.6, 0.6, 0.0)) * 50.0
    return np.asarray(painted[..., None] + noise_hu, dtype=np.float32)


def _is_border(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The outermost pixels of a slice: always kept, so that there is something to paint with."""
    border = np.ones(shape, dtype=bool)
    border[1:-1, 1:-1] = False
    return border
