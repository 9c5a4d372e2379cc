"""The ZIP file of ``/datastore/dataset``: stock MONAI Label's layout, and what it leaves unsaid.

``image/`` and ``label/`` hold a file a case, the scan as it lies in the study and the accepted label on its grid;
``metadata.json`` is the study's index for these cases. ``medai.json`` says of each label whose it is and how it was
made, and which labels were left out and why.

Threads: a call writes one file of its own, scans copied piece by piece; call it where blocking is fine.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import medai
from medai.errors import NotFoundError
from medai.server.replies import plain
from medai.store.study import FINAL, StudyStore
from medai.workflows.accepted_labels import AcceptedLabel, AcceptedLabels

MANIFEST = "medai.json"
_NAMED_REASONS = 3


def write_archive(study: StudyStore, accepted: AcceptedLabels, limit_cases: int | None) -> Path:
    """Write the ZIP file into the folder for temporary files.

    Args:
        study: where the labels are from.
        accepted: what may leave.
        limit_cases: how many cases at most; None or 0 and less: all.

    Returns:
        The file; whoever asked deletes it.

    Raises:
        NotFoundError: nothing may leave; with reasons.
    """
    if not accepted.labels:
        raise NotFoundError(_nothing(accepted))
    given = accepted.labels[:limit_cases] if limit_cases and limit_cases > 0 else accepted.labels
    handle, name = tempfile.mkstemp(prefix="medai-dataset-", suffix=".zip")
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream, zipfile.ZipFile(stream, mode="w") as archive:
            for each in given:
                archive.write(each.image_path, arcname=f"image/{each.image_path.name}")
                archive.write(each.label_path, arcname=f"label/{each.label_path.name}")
            archive.writestr("metadata.json", json.dumps(_index(study, accepted.labels)))
            archive.writestr(MANIFEST, json.dumps(plain(_manifest(study, accepted, given)), indent=1))
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _nothing(accepted: AcceptedLabels) -> str:
    if not accepted.left_out:
        return "There is nothing to download yet: no case of this study has a final label."
    shown = [f"{case_id} ({reason})" for case_id, reason in list(accepted.left_out.items())[:_NAMED_REASONS]]
    more = len(accepted.left_out) - len(shown)
    return (
        f"There is nothing to download yet: no final label of this study is accepted. Left out: {', '.join(shown)}"
        f"{f' and {more} more' if more > 0 else ''}."
    )


def _index(study: StudyStore, labels: Sequence[AcceptedLabel]) -> dict[str, Any]:
    """MONAI Label's index of the cases with an accepted label, of which it names that label alone."""
    index = study.as_json()
    objects = {}
    for each in labels:
        entry = index["objects"].get(each.case_id)
        if entry is None:
            continue
        final = entry["labels"].get(FINAL, {})
        if each.label_path != study.label_path(each.case_id, FINAL):
            named = [{"name": segment["name"], "idx": segment["value"]} for segment in each.segments]
            info = {"label_info": named, "ts": final.get("info", {}).get("ts"), "name": each.label_path.name}
            final = {"ext": "".join(each.label_path.name[len(each.case_id) :]), "info": info}
        objects[each.case_id] = {**entry, "labels": {FINAL: final}}
    return {**index, "objects": objects}


def _manifest(study: StudyStore, accepted: AcceptedLabels, given: Sequence[AcceptedLabel]) -> dict[str, Any]:
    cases = {
        each.case_id: {
            "image": f"image/{each.image_path.name}",
            "label": f"label/{each.label_path.name}",
            "readers": each.readers,
            "method": each.method,
            "segments": each.segments,
        }
        for each in given
    }
    return {
        "medai": medai.__version__,
        "study": study.name,
        "cases": cases,
        "left_out": dict(accepted.left_out),
        "beyond_limit_cases": [each.case_id for each in accepted.labels[len(given) :]],
        "unlabelled": len(study.unlabeled(FINAL)),
    }
