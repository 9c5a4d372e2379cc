"""Click cases in one file: to hand them to another process, or to keep those that take long to make."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from medai.domain import Volume
from medai.domain.click_case import ClickCase
from medai.errors import InputError, MedaiError
from medai.geometry import VolumeGeometry
from medai.volume_io.atomic import atomic_path


def save_cases(path: Path, cases: Iterable[ClickCase], *, compressed: bool = False) -> None:
    """Write cases atomically; headers are left out, which may name a patient.

    Args:
        path: ends in .npz, in a folder that is there.
        cases: with HU that fit into 16 bits.
        compressed: smaller and slower.

    Raises:
        StorageError: it cannot be written.
    """
    arrays: dict[str, Any] = {}
    for number, case in enumerate(cases):
        arrays[f"image_{number}"] = np.asarray(case.volume.image_hu, dtype=np.int16)
        arrays[f"mask_{number}"] = case.mask
        arrays[f"affine_{number}"] = case.volume.geometry.affine_ijk_to_ras_mm
        arrays[f"name_{number}"] = np.array([case.case_id, case.patient_id, case.volume.case_id])
        arrays[f"weight_{number}"] = np.array(case.weight)
        if case.readers is not None:
            arrays[f"readers_{number}"] = case.readers
    arrays["count"] = np.array(sum(name.startswith("image_") for name in arrays))
    write = np.savez_compressed if compressed else np.savez
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        write(stream, **arrays)


def load_cases(path: Path) -> list[ClickCase]:
    """Read what ``save_cases`` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as kept:
            return [_case(kept, number) for number in range(int(kept["count"]))]
    except (zipfile.BadZipFile, EOFError, ValueError, KeyError, MedaiError) as error:
        raise InputError(f"{path} is damaged ({error}): delete it, it is made again.") from error


def _case(kept: Any, number: int) -> ClickCase:
    image_hu = kept[f"image_{number}"]
    case_id, patient_id, scan_id = (str(text) for text in kept[f"name_{number}"])
    geometry = VolumeGeometry(shape_ijk=image_hu.shape, affine_ijk_to_ras_mm=np.asarray(kept[f"affine_{number}"]))
    return ClickCase(
        case_id=case_id,
        patient_id=patient_id,
        volume=Volume(geometry=geometry, image_hu=image_hu, case_id=scan_id),
        mask=kept[f"mask_{number}"],
        readers=kept[f"readers_{number}"] if f"readers_{number}" in kept.files else None,
        weight=float(kept[f"weight_{number}"]),
    )
