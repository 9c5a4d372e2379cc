"""The real nodules and real scans that detection cases are made of, with whose they are.

``lidc_nodules`` and ``lidc_cubes`` hold the nodules, ``dicom`` the scans. Which side of the split a patient is on is
decided by ``medai.training.dataset``, as for every family.
"""

from __future__ import annotations

import csv
import logging
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from medai.domain import NoduleKind, Volume
from medai.domain.detection_case import TrueNodule
from medai.errors import InputError
from medai.geometry.frames import points_ras_to_lps
from medai.phantom.cutout import NoduleCutout, cut_out
from medai.training.dataset import is_validation_patient
from medai.training.lidc import lidc_cases
from medai.volume_io.readers import read_volume

logger = logging.getLogger(__name__)

Place = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RealHost:
    """A real scan that nodules may be put into.

    Attributes:
        patient_id: whose scan it is; decides on which side of the split it is used.
        archive: below ``dicom/`` of the real data.
        irrelevant_ijk: voxels and diameters of its own lesions, which nobody outlined.
    """

    patient_id: str
    archive: str
    irrelevant_ijk: tuple[tuple[Place, float], ...] = ()


REAL_HOSTS = (
    RealHost(
        patient_id="C3N-00247", archive="cptac_lscc_C3N-00247.tar.xz", irrelevant_ijk=(((110.0, 167.0, 32.0), 26.0),)
    ),
    RealHost(patient_id="A0001", archive="lung_pet_ct_dx_A0001.tar.xz", irrelevant_ijk=(((318.0, 346.0, 46.0), 90.0),)),
    RealHost(patient_id="LIDC-IDRI-0001", archive="lidc_slab_0001.tar.xz"),
    RealHost(
        patient_id="LIDC-IDRI-0002", archive="lidc_slab_0002.tar.xz", irrelevant_ijk=(((346.0, 361.0, 1.0), 40.0),)
    ),
    RealHost(patient_id="LIDC-IDRI-0003", archive="lidc_slab_0003.tar.xz"),
)
"""Slabs of LIDC-IDRI hold their patients' nodules; ``lidc_nodules`` says where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RealNodule:
    """A nodule of the real data.

    Attributes:
        folder: ``lidc_nodules`` or ``lidc_cubes``.
        case_id: its name there.
        patient_id: whose it is.
        kind: attenuation type, from the readers' rating of its texture.
        is_spiculated: from the readers' rating of its spiculation.
        centre_ras_mm: in its own scan, None in ``lidc_cubes``.
        diameter_mm: as listed, 0 in ``lidc_cubes``.
    """

    folder: Path
    case_id: str
    patient_id: str
    kind: NoduleKind
    is_spiculated: bool
    centre_ras_mm: Place | None
    diameter_mm: float


@lru_cache(maxsize=4)
def real_nodules(real_data: Path) -> tuple[RealNodule, ...]:
    """All nodules of ``lidc_nodules`` and ``lidc_cubes``."""
    rows: list[RealNodule] = []
    for name in ("lidc_nodules", "lidc_cubes"):
        table = real_data / name / "nodules.csv"
        if not table.is_file():
            raise InputError(f"{table} does not exist: name the folder that holds lidc_nodules and lidc_cubes.")
        with table.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                lps = [row.get(f"centre_{axis}_lps_mm") for axis in "xyz"]
                centre = None if None in lps else tuple(points_ras_to_lps([float(str(v)) for v in lps]).tolist())
                rows.append(
                    RealNodule(
                        folder=real_data / name,
                        case_id=row["case_id"],
                        patient_id=row["patient_id"],
                        kind=_kind(float(row["texture"])),
                        is_spiculated=float(row["spiculation"]) >= 3,
                        centre_ras_mm=centre,
                        diameter_mm=float(row.get("diameter_mm") or 0),
                    )
                )
    return tuple(rows)


def _kind(texture: float) -> NoduleKind:
    """LIDC-IDRI's rating of texture: 1 non-solid … 3 part-solid … 5 solid."""
    if texture < 2.5:
        return NoduleKind.NON_SOLID
    return NoduleKind.PART_SOLID if texture < 3.5 else NoduleKind.SOLID


@lru_cache(maxsize=1024)
def cutout_of(row: RealNodule) -> NoduleCutout | None:
    """The nodule ready to be inserted; None where it is too much cut off."""
    case = next((c for c in lidc_cases(row.folder, {row.patient_id}) if c.case_id == row.case_id), None)
    if case is None:
        return None
    try:
        return cut_out(case, kind=row.kind, is_spiculated=row.is_spiculated)
    except InputError as error:
        logger.info("not inserted: %s", error)
        return None


def draw_real_scan(
    rng: np.random.Generator, real_data: Path, *, held_back: bool
) -> tuple[Volume, tuple[tuple[TrueNodule, ...], tuple[TrueNodule, ...]], str] | None:
    """One of the real scans on one side of the split.

    Args:
        rng: which.
        real_data: folder with ``lidc_nodules``, ``lidc_cubes`` and ``dicom``.
        held_back: which side.

    Returns:
        The scan, its nodules and its irrelevant findings, and whose it is; None where this side has no scan.
    """
    options: Sequence[RealHost] = [
        host
        for host in REAL_HOSTS
        if is_validation_patient(host.patient_id) == held_back and (real_data / "dicom" / host.archive).is_file()
    ]
    if not options:
        return None
    chosen = options[int(rng.integers(len(options)))]
    scan = _unpacked(real_data / "dicom" / chosen.archive)
    irrelevant = []
    for index_ijk, diameter_mm in chosen.irrelevant_ijk:
        x, y, z = (float(c) for c in scan.geometry.ijk_to_ras(index_ijk))
        irrelevant.append(TrueNodule(centre_ras_mm=(x, y, z), diameter_mm=diameter_mm, source="scan"))
    own = [
        TrueNodule(centre_ras_mm=row.centre_ras_mm, diameter_mm=row.diameter_mm, kind=row.kind, source="scan")
        for row in real_nodules(real_data)
        if row.patient_id == chosen.patient_id
        and row.centre_ras_mm is not None
        and scan.geometry.contains(np.rint(scan.geometry.ras_to_ijk(row.centre_ras_mm)).astype(int))
    ]
    return scan, (tuple(own), tuple(irrelevant)), chosen.patient_id


@lru_cache(maxsize=2)
def _unpacked(archive: Path) -> Volume:
    """The scan in an archive of DICOM files."""
    with TemporaryDirectory(prefix="medai-") as scratch:
        with tarfile.open(archive) as files:
            files.extractall(scratch, filter="data")
        return read_volume(Path(scratch))
