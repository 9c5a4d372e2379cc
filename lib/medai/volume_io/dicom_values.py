"""Values of a DICOM header, read without trust: text as it stands, numbers only where they are written as DICOM says.

Elements are taken raw: pydicom's own conversion raises at the first odd number and does not say where it stands. What
cannot be understood is noted with its tag and value, and the file it stands in is refused by that note.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass, field
from typing import Any

from pydicom.datadict import dictionary_VR
from pydicom.tag import BaseTag, Tag

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_TEXT_VRS = {"DS", "IS", "LO", "SH", "CS", "ST", "LT", "UT", "UC", "UI", "DA", "TM", "DT", "PN", "AS"}
_LONGEST_SHOWN = 60

_GROUP_OF = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "SpacingBetweenSlices": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "RescaleType": "PixelValueTransformationSequence",
    "FrameType": "CTImageFrameTypeSequence",
    "VolumetricProperties": "CTImageFrameTypeSequence",
    "VolumeBasedCalculationTechnique": "CTImageFrameTypeSequence",
    "ConvolutionKernel": "CTReconstructionSequence",
    "ReconstructionDiameter": "CTReconstructionSequence",
    "ReconstructionAlgorithm": "CTReconstructionSequence",
    "KVP": "CTXRayDetailsSequence",
    "FilterType": "CTXRayDetailsSequence",
    "StackID": "FrameContentSequence",
    "TemporalPositionIndex": "FrameContentSequence",
    "FrameAcquisitionNumber": "FrameContentSequence",
    "FrameReferenceDateTime": "FrameContentSequence",
    "FrameAcquisitionDateTime": "FrameContentSequence",
    "NominalPercentageOfCardiacPhase": "CardiacSynchronizationSequence",
    "NominalCardiacTriggerDelayTime": "CardiacSynchronizationSequence",
    "DecompositionMethod": "MultienergyCTProcessingSequence",
    "DecompositionMaterialSequence": "MultienergyCTProcessingSequence",
    "MonoenergeticEnergyEquivalent": "MultienergyCTCharacteristicsSequence",
}


@dataclass(slots=True, kw_only=True)
class HeaderValues:
    """The header of one image: its own functional group, then the shared one, then the file's.

    Attributes:
        dataset: the file's.
        per_frame: the frame's item of the functional groups, or None.
        shared: the shared functional groups, or None.
        problems: what could not be understood so far, with tag and value.
    """

    dataset: Any
    per_frame: Any = None
    shared: Any = None
    problems: list[str] = field(default_factory=list)

    def text(self, keyword: str) -> str:
        """The value as text, several joined by a backslash; "" where there is none."""
        return element_text(self._holder(keyword), keyword)

    def number(self, keyword: str) -> float | None:
        """A finite number; None where there is none, or none that can be understood."""
        values = self.numbers(keyword, 1)
        return None if values is None else values[0]

    def numbers(self, keyword: str, count: int) -> tuple[float, ...] | None:
        """So many finite numbers; None where there are none, or none that can be understood."""
        text = self.text(keyword)
        if not text:
            return None
        parts = [part.strip(" \0\t") for part in text.split("\\")]
        values = [float(part) for part in parts if _NUMBER.fullmatch(part)]
        if len(values) == len(parts) == count and all(math.isfinite(value) for value in values):
            return tuple(values)
        self.problems.append(_odd_number(keyword, text, parts, count))
        return None

    def number_or_none(self, keyword: str) -> float | None:
        """The number where it is one; an odd value is no problem."""
        text = self.text(keyword)
        return float(text) if _NUMBER.fullmatch(text) else None

    def shown(self, keyword: str) -> str:
        """The value as text in the file's character set, for people to read."""
        holder = self._holder(keyword)
        written = element_text(holder, keyword)
        if written.isascii():
            return written
        try:
            value = holder.get(keyword, None)
        except (ValueError, TypeError, OverflowError):
            return written
        if value is None or isinstance(value, str) or not hasattr(value, "__iter__"):
            return "" if value is None else str(value)
        return "\\".join(str(part) for part in value)

    def whole(self, keyword: str, default: int) -> int:
        """A whole number, the default where there is none or none that can be understood."""
        value = self.number(keyword)
        if value is None:
            return default
        if not value.is_integer():
            self.problems.append(f"{keyword} {_tag(keyword)} = {value:g}, which must be a whole number")
            return default
        return int(value)

    def sequence(self, keyword: str) -> list[Any]:
        """Items of a sequence, none where it is absent."""
        value = self._holder(keyword).get(keyword, None)
        return list(value) if value else []

    def _holder(self, keyword: str) -> Any:
        if self.per_frame is None and self.shared is None:
            return self.dataset
        sequence_keyword = _GROUP_OF.get(keyword)
        if sequence_keyword is not None:
            for group in (self.per_frame, self.shared):
                items = group.get(sequence_keyword, None) if group is not None else None
                if items and keyword in items[0]:
                    return items[0]
        return self.dataset


def element_text(dataset: Any, keyword: str) -> str:
    """An element's value as it is written, "" where there is none; letters beyond ASCII are not decoded."""
    tag = _tag_of(keyword)
    element = dataset.get_item(tag)
    if element is None:
        return ""
    value = element.value
    if isinstance(value, bytes):
        vr = dictionary_VR(tag) if element.VR in (None, "UN") else element.VR
        if vr in _TEXT_VRS:
            return value.decode("latin-1").strip(" \0\t\r\n")
        value = dataset[tag].value
    if value is None:
        return ""
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return str(value).strip(" \0\t\r\n")
    return "\\".join(str(part) for part in value)


@functools.cache
def _tag_of(keyword: str) -> BaseTag:
    return Tag(keyword)


def _tag(keyword: str) -> str:
    tag = int(_tag_of(keyword))
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _odd_number(keyword: str, text: str, parts: list[str], count: int) -> str:
    shown = text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…"
    said = f"{keyword} {_tag(keyword)} = '{shown}'"
    if any(_NUMBER.fullmatch(part.replace(",", ".")) and "," in part for part in parts):
        return f"{said}: decimals are written with a point in DICOM, not with a comma"
    odd = next((part for part in parts if not _NUMBER.fullmatch(part)), None)
    if odd is not None:
        return f"{said}, in which '{odd[:_LONGEST_SHOWN]}' is no number"
    if len(parts) != count:
        return f"{said}, which should be {count} numbers" if count > 1 else f"{said}, which should be one number"
    return f"{said}, which is no finite number"
