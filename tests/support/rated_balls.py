"""Small rated nodules for tests of the classifier: balls, the larger the more suspicious."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from medai.domain import LabelMap, Segment, Volume
from medai.domain.click_case import ClickCase
from medai.geometry import VolumeGeometry
from medai.training.classification_samples import NoduleWithReaders
from medai.volume_io.writers import write_label_map, write_volume

SHAPE = (40, 42, 9)
SPACING_MM = (0.9, 0.8, 1.6)


def ball_case(number: int, radius_mm: float, patient_id: str | None = None) -> ClickCase:
    """A ball of soft tissue in lung, in a crop that ends at its first and last slice."""
    rng = np.random.default_rng(number)
    affine = np.diag([*SPACING_MM, 1.0])
    affine[:3, 3] = (-30.0, 20.0, 50.0)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), axis=-1)
    off_mm = np.linalg.norm((grid - np.array([20, 21, 4])) * SPACING_MM, axis=-1)
    mask = off_mm <= radius_mm
    image = np.where(mask, 20.0, -840.0) + rng.normal(0, 20, SHAPE)
    slices = np.flatnonzero(mask.any(axis=(0, 1)))
    image, mask = image[..., slices[0] : slices[-1] + 1], mask[..., slices[0] : slices[-1] + 1]
    geometry = VolumeGeometry(shape_ijk=mask.shape, affine_ijk_to_ras_mm=affine)
    case_id = f"ball_{number}"
    return ClickCase(
        case_id=case_id,
        patient_id=patient_id or f"patient_{number}",
        volume=Volume(geometry=geometry, image_hu=image.astype(np.int16), case_id=case_id),
        mask=mask,
    )


def rated_balls(count: int) -> list[NoduleWithReaders]:
    """Balls of 2 to 6 mm radius, rated 1 to 5 by their size; two readers a point apart."""
    nodules = []
    for number in range(count):
        rating = 1 + number % 5
        case = ball_case(number, radius_mm=1.5 + rating * 0.9 + 0.02 * number)
        ratings = {"malignancy": float(rating), "texture": 5.0 if number % 3 else 1.0}
        other = {**ratings, "malignancy": float(min(5, rating + 1))}
        nodules.append(NoduleWithReaders(case=case, readers=(ratings, other), voted=ratings))
    return nodules


def write_folder(folder: Path, nodules: list[NoduleWithReaders]) -> Path:
    """Write nodules as ``images/``, ``masks/`` and ``nodules.csv``."""
    rows = []
    for nodule in nodules:
        case = nodule.case
        for name in ("images", "masks"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        write_volume(case.volume, folder / "images" / f"{case.case_id}.nii.gz")
        labels = LabelMap(
            geometry=case.volume.geometry,
            labels=case.mask.astype(np.uint8),
            segments=(Segment(value=1, name="nodule"),),
        )
        write_label_map(labels, folder / "masks" / f"{case.case_id}.nii.gz")
        rows.append({"case_id": case.case_id, "patient_id": case.patient_id, **nodule.voted})
    with (folder / "nodules.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, fieldnames=list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return folder
