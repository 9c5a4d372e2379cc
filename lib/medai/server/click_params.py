"""Clicks and regions as clients send them, turned into what the library takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medai.errors import InputError
from medai.geometry import IndexBox, VolumeGeometry
from medai.server.served_scans import box_in_file, index_in_file

LONGEST_LABEL = 200
MOST_POINTS = 1000
"""Clicks of one kind in a request; what an annotator sets is two digits."""
DEFAULT_LABEL = "nodule"
_OTHER_LISTS = ("background", "roi", "label_info")
"""Parameters that are lists and no foreground clicks."""


def points_ijk(params: Mapping[str, Any], key: str) -> list[tuple[int, int, int]]:
    """Voxel indices under ``key``; none where the key is missing or empty.

    Raises:
        InputError: anything but a list of [i, j, k] whole numbers, or more than ``MOST_POINTS`` of them.
    """
    given = params.get(key)
    if given is None or given == "":
        return []
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise InputError(f"'{key}' is {_shown(given)}; it takes a list of voxel indices such as [[210, 188, 64]].")
    if len(given) > MOST_POINTS:
        raise InputError(f"'{key}' holds {len(given)} points; it takes {MOST_POINTS} at most.")
    return [_index(point, key) for point in given]


def clicks_ijk(
    params: Mapping[str, Any], labels: Sequence[str]
) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]:
    """Foreground and background clicks, however the client names them.

    Clients of stock DeepGrow send ``foreground``; those of DeepEdit send each label's clicks under the label's own
    name, or under that of the segment at hand (``label``). Where both are there, both count.

    Args:
        params: the client's parameters.
        labels: the names under which the model is listed, such as "nodule".

    Returns:
        Foreground and background, each without repetitions.

    Raises:
        InputError: anything but lists of [i, j, k] whole numbers.
    """
    keys = ["foreground", *labels]
    segment = params.get("label")
    # A segment may be called as any parameter is: only a list can be its clicks.
    if isinstance(segment, str) and segment not in (*keys, *_OTHER_LISTS) and isinstance(params.get(segment), list):
        keys.append(segment)
    foreground = dict.fromkeys(point for key in keys for point in points_ijk(params, key))
    return list(foreground), list(dict.fromkeys(points_ijk(params, "background")))


def roi_box(params: Mapping[str, Any]) -> IndexBox | None:
    """The region in ``roi``: [imin, imax, jmin, jmax, kmin, kmax], both ends inside; None where there is none.

    The Slicer plugin turns the corners of its box in RAS into indices, so along an axis that is flipped against the
    patient the larger one comes first.

    Raises:
        InputError: not six whole numbers.
    """
    given = params.get("roi")
    if not given:
        return None
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != 6:
        raise InputError(f"'roi' is {_shown(given)}; it takes six voxel indices [imin, imax, jmin, jmax, kmin, kmax].")
    i0, i1, j0, j1, k0, k1 = (_whole(value, "roi") for value in given)
    low = (min(i0, i1), min(j0, j1), min(k0, k1))
    return IndexBox(start_ijk=low, stop_ijk=(max(i0, i1) + 1, max(j0, j1) + 1, max(k0, k1) + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFrame:
    """Which grid a client's voxel indices count on: that of the scan's file, or of the copy it was given.

    Attributes:
        geometry: the scan's own grid.
        turned: True where the client was given a right-handed copy of a left-handed scan (``served_scans``).
    """

    geometry: VolumeGeometry
    turned: bool

    @classmethod
    def of_request(cls, geometry: VolumeGeometry, params: Mapping[str, Any], *, is_case: bool) -> IndexFrame:
        """The frame of a request: scans of the study are handed out right-handed, uploaded ones are the client's own.

        Raises:
            InputError: ``index_frame`` is neither "served" nor "file".
        """
        frame = params.get("index_frame", "served")
        if frame not in ("served", "file"):
            raise InputError(
                f"'index_frame' is {_shown(frame)}; it takes 'served' (indices of the file handed out, the default), "
                "'file' (indices of the study's own file)."
            )
        return cls(geometry=geometry, turned=is_case and frame == "served" and geometry.is_left_handed)

    def index(self, index_ijk: tuple[int, int, int]) -> tuple[int, int, int]:
        """A client's index as one of the scan's own grid, or the other way round."""
        return index_in_file(index_ijk, self.geometry) if self.turned else index_ijk

    def box(self, box: IndexBox | None) -> IndexBox | None:
        """The same for a region.

        Raises:
            InputError: it lies outside the scan.
        """
        if box is None:
            return None
        if box.intersect(IndexBox.of_shape(self.geometry.shape_ijk)).is_empty:
            sizes = "×".join(str(n) for n in self.geometry.shape_ijk)
            bounds = [bound for low, high in zip(box.start_ijk, box.stop_ijk, strict=True) for bound in (low, high - 1)]
            raise InputError(
                f"The region 'roi' {bounds} lies outside the scan, which has {sizes} voxels (indices from 0). Place it "
                "over the nodule, or leave it out."
            )
        return box_in_file(box, self.geometry) if self.turned else box


def label_name(params: Mapping[str, Any], key: str = "label") -> str:
    """The segment that the answer is for; "nodule" where the client does not say."""
    given = params.get(key) or DEFAULT_LABEL
    if not isinstance(given, str) or len(given) > LONGEST_LABEL:
        raise InputError(f"'{key}' takes the name of a segment, at most {LONGEST_LABEL} characters, not {given!r:.80}.")
    return given


def number(params: Mapping[str, Any], key: str, default: float, *, low: float, high: float) -> float:
    """A number under ``key``, as a number or as text.

    Raises:
        InputError: no number, or out of range.
    """
    given = params.get(key)
    if given is None or given == "":
        return default
    try:
        value = float(given)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not low <= value <= high:
        raise InputError(f"'{key}' is {_shown(given)}; it takes a number from {low:g} to {high:g}.")
    return value


def _index(point: Any, key: str) -> tuple[int, int, int]:
    if not isinstance(point, Sequence) or isinstance(point, str) or len(point) != 3:
        raise InputError(f"'{key}' holds {_shown(point)}; a point is three voxel indices such as [210, 188, 64].")
    i, j, k = (_whole(value, key) for value in point)
    return (i, j, k)


def _whole(value: Any, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value != int(value):
        raise InputError(f"'{key}' holds {_shown(value)}; voxel indices are whole numbers.")
    return int(value)


def _shown(value: Any) -> str:
    """A value as a message shows it: a client may send a megabyte."""
    return f"{value!a}"[:120]
