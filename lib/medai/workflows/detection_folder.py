"""A folder of detection cases, laid out like a LUNA16 download.

``medai evaluate detection --data FOLDER`` and any LUNA16 script read it:

    FOLDER/images/<case>.nii.gz       the scan, int16 HU
    FOLDER/annotations.csv            seriesuid,coordX,coordY,coordZ,diameter_mm: LPS millimetres, a nodule a line
    FOLDER/annotations_excluded.csv   the same for findings that are neither right nor wrong to mark
    FOLDER/seriesuids.csv             every case, also those without a nodule
    FOLDER/truth/<case>.json          the same facts with the nodules' kinds and sources; what a resumed run goes by
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medai.domain import NoduleKind, Volume
from medai.domain.detection_case import DetectionCase, TrueNodule
from medai.errors import InputError, StorageError
from medai.geometry.frames import points_ras_to_lps
from medai.volume_io.atomic import atomic_path
from medai.volume_io.readers import read_volume
from medai.volume_io.writers import write_volume


def is_written(folder: Path, case_id: str) -> bool:
    """True where a case's scan and truth are in the folder."""
    return (folder / "images" / f"{case_id}.nii.gz").is_file() and (folder / "truth" / f"{case_id}.json").is_file()


def write_detection_cases(folder: Path, cases: Iterable[DetectionCase]) -> None:
    """Write cases into a folder, beside those that are there, and rewrite its lists.

    Raises:
        StorageError: the disk refuses.
    """
    try:
        for part in ("images", "truth"):
            (folder / part).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"The folder {folder.name} cannot be made: {error.strerror or error}.") from error
    for case in cases:
        write_volume(case.volume, folder / "images" / f"{case.case_id}.nii.gz")
        facts = {
            "case_id": case.case_id,
            "patient_ids": list(case.patient_ids),
            "nodules": [_facts(nodule) for nodule in case.nodules],
            "irrelevant": [_facts(nodule) for nodule in case.irrelevant],
        }
        with atomic_path(folder / "truth" / f"{case.case_id}.json") as temporary:
            temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        _write_lists(folder)


def read_detection_case(folder: Path, case_id: str) -> DetectionCase:
    """A case that ``write_detection_cases`` wrote.

    Raises:
        InputError: there is no such case.
    """
    if not is_written(folder, case_id):
        raise InputError(f"There is no detection case {case_id} in {folder}: make it with medai phantom detection.")
    facts = json.loads((folder / "truth" / f"{case_id}.json").read_text(encoding="utf-8"))
    volume = read_volume(folder / "images" / f"{case_id}.nii.gz")
    return DetectionCase(
        case_id=case_id,
        patient_ids=tuple(facts["patient_ids"]),
        volume=Volume(geometry=volume.geometry, image_hu=volume.image_hu, case_id=case_id, header=volume.header),
        nodules=tuple(_nodule(row) for row in facts["nodules"]),
        irrelevant=tuple(_nodule(row) for row in facts["irrelevant"]),
    )


def written_case_ids(folder: Path) -> tuple[str, ...]:
    """Ids of all complete cases in a folder, sorted."""
    names = sorted(path.stem for path in (folder / "truth").glob("*.json") if not path.name.startswith("."))
    return tuple(name for name in names if is_written(folder, name))


def _facts(nodule: TrueNodule) -> dict[str, object]:
    return {
        "centre_ras_mm": [round(c, 3) for c in nodule.centre_ras_mm],
        "diameter_mm": round(nodule.diameter_mm, 3),
        "kind": None if nodule.kind is None else nodule.kind.value,
        "source": nodule.source,
    }


def _nodule(facts: dict[str, Any]) -> TrueNodule:
    x, y, z = (float(c) for c in facts["centre_ras_mm"])
    return TrueNodule(
        centre_ras_mm=(x, y, z),
        diameter_mm=float(facts["diameter_mm"]),
        kind=None if facts["kind"] is None else NoduleKind(facts["kind"]),
        source=facts["source"],
    )


def _write_lists(folder: Path) -> None:
    """annotations.csv, annotations_excluded.csv and seriesuids.csv of all cases in the folder."""
    ids = written_case_ids(folder)
    truths = {case: json.loads((folder / "truth" / f"{case}.json").read_text(encoding="utf-8")) for case in ids}
    for name, part in (("annotations.csv", "nodules"), ("annotations_excluded.csv", "irrelevant")):
        with atomic_path(folder / name) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            rows = csv.writer(stream)
            rows.writerow(["seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"])
            for case, facts in truths.items():
                for finding in facts[part]:
                    x, y, z = points_ras_to_lps(finding["centre_ras_mm"])
                    rows.writerow([case, f"{x:.3f}", f"{y:.3f}", f"{z:.3f}", f"{finding['diameter_mm']:.3f}"])
    with atomic_path(folder / "seriesuids.csv") as temporary:
        temporary.write_text("".join(f"{case}\n" for case in ids), encoding="utf-8")
