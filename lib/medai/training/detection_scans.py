"""Scans ready to cut patches from: resampled once, kept on disk, mapped into memory.

A whole scan takes seconds to decode and to resample; training draws thousands of patches. Each prepared scan is three
files side by side: the image (``.npy``), the lungs as bits (``.lungs.npy``) and what is known (``.json``, written
last: a scan without it is not there).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medai.domain.detection_case import DetectionCase, TrueNodule
from medai.errors import InputError, StorageError
from medai.geometry import VolumeGeometry
from medai.preprocessing.lung_copy import LungCopy, lung_copy
from medai.preprocessing.lung_mask import segment_lungs
from medai.volume_io.atomic import atomic_path

LUNG_PLACES = 4000
"""Random voxels of the lungs kept with a scan, to draw patches around."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreparedScan:
    """A scan at the detector's spacing.

    Attributes:
        case_id: of the case.
        patient_ids: everyone whose anatomy is in it.
        geometry: of the copy, axes nearest to right, anterior, superior.
        image_path: int16 HU.
        nodules: float32 [n, 6], boxes in the copy's index space: start i, j, k, stop i, j, k.
        ignored: float32 [m, 6], boxes that are neither right nor wrong to mark.
        weights: float32 [n], how often each nodule is drawn, relative to a solid one.
        lung_places: uint16 [k, 3], voxels in the lungs.
    """

    case_id: str
    patient_ids: tuple[str, ...]
    geometry: VolumeGeometry
    image_path: Path
    nodules: NDArray[np.float32]
    ignored: NDArray[np.float32]
    weights: NDArray[np.float32]
    lung_places: NDArray[np.uint16]

    @property
    def image_hu(self) -> NDArray[np.int16]:
        """The image, mapped."""
        image: NDArray[np.int16] = np.load(self.image_path, mmap_mode="r")
        return image

    def copy(self) -> LungCopy:
        """As inference would see it."""
        bits = np.load(_lungs_path(self.image_path))
        count = int(np.prod(self.geometry.shape_ijk))
        inside = np.unpackbits(bits, count=count).reshape(self.geometry.shape_ijk).astype(bool)
        return LungCopy(geometry=self.geometry, image_hu=self.image_hu.astype(np.float32), inside=inside)

    def true_nodules(self) -> list[TrueNodule]:
        """What must be found, in the patient."""
        return self._in_patient(self.nodules)

    def irrelevant(self) -> list[TrueNodule]:
        """What is neither right nor wrong to mark, in the patient."""
        return self._in_patient(self.ignored)

    def _in_patient(self, boxes: NDArray[np.float32]) -> list[TrueNodule]:
        found: list[TrueNodule] = []
        for box in boxes:
            x, y, z = (float(c) for c in self.geometry.ijk_to_ras((box[:3] + box[3:]) / 2))
            diameter_mm = float((box[3] - box[0]) * self.geometry.spacing_mm[0])
            found.append(TrueNodule(centre_ras_mm=(x, y, z), diameter_mm=diameter_mm))
        return found


def prepare_scan(
    case: DetectionCase, folder: Path, spacing_ras_mm: Sequence[float], *, name: str | None = None
) -> PreparedScan:
    """Make the files of a case, or find them made.

    Args:
        case: a scan with its truth.
        folder: where prepared scans lie.
        spacing_ras_mm: voxel size.
        name: of the files, None for the case's id.

    Raises:
        InputError: no lungs are found in the scan.
        StorageError: the files cannot be written.
    """
    name = name or case.case_id
    made = find_prepared(folder, name)
    if made is not None:
        return made
    copy = lung_copy(case.volume, segment_lungs(case.volume), spacing_ras_mm)
    if copy is None:
        raise InputError(f"No lungs were found in case '{case.case_id}': a detector cannot learn from it.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        image_path = folder / f"{name}.npy"
        np.save(image_path, np.clip(np.rint(copy.image_hu), -32768, 32767).astype(np.int16))
        np.save(_lungs_path(image_path), np.packbits(copy.inside))
    except OSError as error:
        raise StorageError(f"The prepared scan could not be written into {folder}: {error}.") from error
    rng = np.random.default_rng(0)
    places = np.argwhere(copy.inside).astype(np.uint16)
    places = places[rng.choice(len(places), min(LUNG_PLACES, len(places)), replace=False)]
    content: dict[str, Any] = {
        "case_id": case.case_id,
        "patient_ids": list(case.patient_ids),
        "shape_ijk": list(copy.geometry.shape_ijk),
        "affine_ijk_to_ras_mm": copy.geometry.affine_ijk_to_ras_mm.tolist(),
        "nodules": [_box(nodule, copy.geometry) for nodule in case.nodules],
        "ignored": [_box(nodule, copy.geometry) for nodule in case.irrelevant],
        "weights": [draw_weight(nodule) for nodule in case.nodules],
        "lung_places": places.tolist(),
    }
    with atomic_path(folder / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
    return _load(folder / f"{name}.json")


def find_prepared(folder: Path, name: str) -> PreparedScan | None:
    """The prepared scan of a name, or None."""
    path = folder / f"{name}.json"
    return _load(path) if path.is_file() else None


def prepared_scans(folder: Path) -> list[PreparedScan]:
    """All prepared scans of a folder, by name."""
    return [_load(path) for path in sorted(folder.glob("*.json"))]


def draw_weight(nodule: TrueNodule) -> float:
    """How often a nodule is drawn: faint and very small ones are rare or easily missed."""
    kinds = {"part-solid": 1.5, "non-solid": 2.0}
    return kinds.get(str(nodule.kind), 1.0) * (1.5 if nodule.diameter_mm < 5 else 1.0)


def _box(nodule: TrueNodule, geometry: VolumeGeometry) -> list[float]:
    middle = geometry.ras_to_ijk(nodule.centre_ras_mm)
    half = nodule.diameter_mm / 2 / np.asarray(geometry.spacing_mm)
    return [float(c) for c in (*(middle - half), *(middle + half))]


def _lungs_path(image_path: Path) -> Path:
    return image_path.with_suffix(".lungs.npy")


def _load(path: Path) -> PreparedScan:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"The prepared scan {path} cannot be read ({error}): delete it.") from error
    i, j, k = (int(n) for n in content["shape_ijk"])
    return PreparedScan(
        case_id=content["case_id"],
        patient_ids=tuple(content["patient_ids"]),
        geometry=VolumeGeometry(
            shape_ijk=(i, j, k), affine_ijk_to_ras_mm=np.asarray(content["affine_ijk_to_ras_mm"], dtype=np.float64)
        ),
        image_path=path.with_suffix(".npy"),
        nodules=np.asarray(content["nodules"], dtype=np.float32).reshape(-1, 6),
        ignored=np.asarray(content["ignored"], dtype=np.float32).reshape(-1, 6),
        weights=np.asarray(content["weights"], dtype=np.float32),
        lung_places=np.asarray(content["lung_places"], dtype=np.uint16).reshape(-1, 3),
    )
