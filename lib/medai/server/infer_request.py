"""One inference as our tasks see it, and the base class that fits it to MONAI Label's ``InferTask``."""

from __future__ import annotations

import tempfile
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask

from medai.domain import LabelMap
from medai.errors import InputError
from medai.server.lanes import Lane
from medai.store.names import find_extension

RESULT_EXTENSIONS = (".nrrd", ".seg.nrrd", ".nii.gz", ".nii", ".mha")
"""What a label map may be answered as (``result_extension``); the Slicer plugin asks for ``.nrrd``."""


class Proposes(Enum):
    """What of an annotator's scene a task's answer becomes; it is remembered until the label comes back."""

    NOTHING = "nothing"
    SCAN = "scan"
    SEGMENT = "segment"


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """What a client asks of a task.

    Attributes:
        scan_path: the scan's file.
        case_id: its name in the study, "" for an uploaded scan.
        params: the client's parameters, unchecked; each task reads what it knows.
        label_path: label map sent along (scribbles), or None.
    """

    scan_path: Path
    case_id: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    label_path: Path | None = None

    @property
    def result_extension(self) -> str:
        """The ending of the answer: what the client asks for, else the scan's own, as stock MONAI Label has it.

        Raises:
            InputError: an ending we cannot write.
        """
        asked = self.params.get("result_extension")
        if not asked:
            own = find_extension(self.scan_path.name, RESULT_EXTENSIONS)
            return own[1].lower() if own else ".nrrd"
        if asked not in RESULT_EXTENSIONS:
            raise InputError(
                f"'result_extension' is {asked!r:.80}; label maps are answered as {', '.join(RESULT_EXTENSIONS)}."
            )
        return str(asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class InferReply:
    """What a task answers.

    Attributes:
        params: JSON part; ``label_names`` maps each segment's name to its value, values contiguous from 1.
        payload: the file, as bytes.
        extension: how the file's name ends; 3D Slicer's plugin tells label maps from markups by it.
    """

    params: dict[str, Any]
    payload: bytes
    extension: str

    @property
    def media_type(self) -> str:
        """MIME type of the file."""
        return "application/json" if self.extension == ".json" else "application/octet-stream"


class MedaiInferTask(InferTask):  # type: ignore[misc]  # monailabel's classes are untyped
    """An inference task that answers with bytes; MONAI Label's own call convention is served through a file.

    Attributes:
        lane: where its work runs.
        proposes: what of the nodules it draws for the annotator to correct.
    """

    lane: Lane = Lane.SCAN
    proposes: Proposes = Proposes.NOTHING

    def is_valid(self) -> bool:
        """Served; a task without weights refuses each request in words."""
        return True

    @abstractmethod
    def answer(self, request: InferRequest) -> InferReply:
        """Answer one request. Called from any thread of the task's lane, by several at once."""

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """MONAI Label's convention: the scan's path in ``image``; returns a temporary file and the params."""
        label = request.get("label")
        reply = self.answer(
            InferRequest(
                scan_path=Path(request["image"]),
                case_id=str(request.get("case_id", "")),
                params=request,
                label_path=Path(label) if isinstance(label, str) and label.endswith(RESULT_EXTENSIONS) else None,
            )
        )
        with tempfile.NamedTemporaryFile(prefix="medai-", suffix=reply.extension, delete=False) as file:
            file.write(reply.payload)
        return file.name, reply.params


def encode_label_map(label_map: LabelMap, request: InferRequest) -> tuple[bytes, str]:
    """Encode a label map as the client wants it.

    Returns:
        The file's bytes and its extension.

    Raises:
        InputError: an extension we cannot write.
    """
    extension = request.result_extension
    from medai.volume_io import writers

    return writers.encode_label_map(label_map, extension), extension
