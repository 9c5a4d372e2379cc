"""Single DICOM slices beside a scan: what 3D Slicer's plugin sends where it is to "include DICOM files".

The scan itself came as a volume file, which says nothing of the patient. A slice's header does: by a hash of the
PatientID all studies of one patient stay on one side of the split, and the acquisition's facts are kept, without
identifiers, as ``medai import`` keeps them. The slice is not: a study holds scans, one file each.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from medai.store.atomic import write_json
from medai.store.case_facts import facts_path, read_facts
from medai.store.study import StudyStore
from medai.volume_io.dicom_headers import DicomFile, looks_like_dicom, read_dicom_file

logger = logging.getLogger(__name__)

NOT_A_SCAN = (
    "One DICOM slice is no scan and was not kept: send the volume, all slices to /session/, or use medai import."
)
FACTS_KEPT = "The slice itself was not kept; its header says which patient the case belongs to."
FACTS_KNOWN = "The slice was not kept: what its header says is known of this case already."


def single_slice(path: Path) -> DicomFile | None:
    """The header of a DICOM file with one image; None for everything else, enhanced multi-frame files among it.

    Raises:
        InputError: a DICOM file whose header is damaged.
    """
    if not looks_like_dicom(path):
        return None
    file = read_dicom_file(path)
    return file if len(file.frames) <= 1 else None


def take_slice(study: StudyStore, case_id: str, slice_file: DicomFile) -> dict[str, Any]:
    """Keep what the header of a slice says of a case.

    Args:
        study: the study.
        case_id: the case it belongs to, as the client says.
        slice_file: its header.

    Returns:
        The answer to the upload: 200 in any case, so that a client that sends slice by slice goes on.

    Raises:
        StorageError: the disk refuses.
    """
    reply: dict[str, Any] = {"image": case_id, "kept": False}
    if case_id not in study.image_ids():
        return {**reply, "detail": NOT_A_SCAN}
    if read_facts(study.folder, case_id):
        return {**reply, "detail": FACTS_KNOWN}
    facts = {"case_id": case_id, "patient_key": slice_file.patient_key, "header": slice_file.header}
    write_json(facts_path(study.folder, case_id), facts)
    logger.info("The header of a DICOM slice says whose case %s is", case_id)
    return {**reply, "detail": FACTS_KEPT}
