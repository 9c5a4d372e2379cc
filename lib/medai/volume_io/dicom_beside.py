"""What lies in a series beside the slices of its scan: localisers, screenshots, maps. It is left out and told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medai.volume_io.dicom_headers import Frame
from medai.volume_io.dicom_kinds import NO_PLACE, plural_of

_MOST_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOutFiles:
    """What lies in a series beside the slices of its scan.

    Attributes:
        what: for example "localiser", "structure set (RTSTRUCT)".
        names: the files.
    """

    what: str
    names: tuple[str, ...]

    def describe(self) -> str:
        """For example "2 localisers (scout1, scout2)"."""
        more = f" and {len(self.names) - _MOST_NAMED} more" if len(self.names) > _MOST_NAMED else ""
        what = self.what if len(self.names) == 1 else plural_of(self.what)
        return f"{len(self.names)} {what} ({', '.join(self.names[:_MOST_NAMED])}{more})"


def without_beside(frames: Sequence[Frame]) -> tuple[list[Frame], list[LeftOutFiles]]:
    """The slices of a CT series, and what lies beside them; everything where there are no slices."""
    slices = [frame for frame in frames if not frame.kind]
    placed = [frame for frame in slices if frame.has_place]
    kinds: dict[str, list[str]] = {}
    for frame in frames:
        kind = frame.kind
        if not kind and placed and not frame.has_place and not frame.problem and _is_foreign(frame, placed[0]):
            kind = NO_PLACE
            slices.remove(frame)
        if kind:
            kinds.setdefault(kind, []).append(frame.path.name)
    if not slices:
        return list(frames), []
    left_out = [LeftOutFiles(what=kind, names=tuple(dict.fromkeys(names))) for kind, names in sorted(kinds.items())]
    return slices, left_out


def _is_foreign(frame: Frame, slice_: Frame) -> bool:
    """True for an image without a place that is not like the slices: a page of a report, a picture."""
    return frame.shape_ij != slice_.shape_ij or frame.image_type[:1] == ("DERIVED",) != slice_.image_type[:1]
