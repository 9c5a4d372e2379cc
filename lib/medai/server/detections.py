"""Detection boxes that an annotator submits: 3D Slicer markups, one ROI a nodule.

The plugin uploads every ROI of its scene but "Scribbles ROI", and by default under the tag ``final``, where stock MONAI
Label lets it replace the segmentation. Here boxes have tags of their own, and the prompts of the plugin's tools are
left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medai.errors import GeometryError, InputError
from medai.geometry import VolumeGeometry
from medai.geometry.frames import points_lps_to_ras
from medai.server.strict_json import whole_number
from medai.store.study import FINAL

DETECTION = "detection"
LARGEST_BYTES = 10 << 20
"""A box takes 1 KB: ten thousand of them fit."""

_TOOLS = ("sam2 roi", "scribbles roi")


def detection_tag(tag: str) -> str:
    """The tag that boxes sent as ``tag`` are stored under, so that they never replace a segmentation."""
    if tag.startswith(DETECTION):
        return tag
    return DETECTION if tag == FINAL else f"{DETECTION}_{tag}"


def read_detections(path: Path, scan: VolumeGeometry) -> dict[str, Any]:
    """Read the boxes of a markups file.

    Args:
        path: the upload.
        scan: grid of the scan they belong to.

    Returns:
        A markups document with the ROIs that have an extent and are no tool's prompt.

    Raises:
        InputError: no markups document, a box that is no box, or none left.
        GeometryError: a box whose centre lies outside the scan.
    """
    size = path.stat().st_size
    if size > LARGEST_BYTES:
        raise InputError(f"The detections have {size >> 20} MB, more than the {LARGEST_BYTES >> 20} MB taken.")
    try:
        document = json.loads(path.read_bytes(), parse_int=whole_number)
    except RecursionError as error:
        raise InputError(
            "The detections are not JSON that can be read: nested too deep. Save them as Slicer markups (.json)."
        ) from error
    except ValueError as error:
        raise InputError(f"The detections are not JSON ({error}). Save them as Slicer markups (.json).") from error
    markups = document.get("markups") if isinstance(document, dict) else None
    if not isinstance(markups, list) or not all(isinstance(markup, dict) for markup in markups):
        raise InputError("The detections hold no list of markups. Save them as Slicer markups (.json).")
    kept = [
        markup for markup in markups if markup.get("type") == "ROI" and not _is_prompt(markup) and _has_extent(markup)
    ]
    if not kept:
        raise InputError(
            f"None of the {len(markups)} markups is a box with an extent; nothing was stored. "
            "Draw a box around each nodule."
        )
    for markup in kept:
        _check_place(markup, scan)
    return {**document, "markups": kept}


def _is_prompt(markup: Mapping[str, Any]) -> bool:
    points = markup.get("controlPoints")
    labels = [str(p.get("label", "")) for p in points if isinstance(p, dict)] if isinstance(points, list) else []
    return any(name.casefold().startswith(_TOOLS) for name in (str(markup.get("name", "")), *labels))


def _has_extent(markup: Mapping[str, Any]) -> bool:
    size_mm = markup.get("size")
    if size_mm is None:
        return False
    return min(_vector(size_mm, "size")) > 0


def _check_place(markup: Mapping[str, Any], scan: VolumeGeometry) -> None:
    centre_mm = np.array(_vector(markup.get("center"), "center"))
    system = str(markup.get("coordinateSystem", "LPS")).upper()
    if system not in ("LPS", "RAS"):
        raise InputError(f"A box has the coordinate system '{system[:20]}'; it is LPS or RAS.")
    centre_ras_mm = points_lps_to_ras(centre_mm) if system == "LPS" else centre_mm
    index_ijk = scan.ras_to_ijk(centre_ras_mm)
    if np.any(index_ijk < -0.5) or np.any(index_ijk > np.asarray(scan.shape_ijk) - 0.5):
        raise GeometryError(
            f"A box has its centre at RAS ({', '.join(f'{c:.1f}' for c in centre_ras_mm)}) mm, outside the scan "
            f"({scan.describe()}). Was it drawn on another scan?"
        )


def _vector(values: Any, name: str) -> list[float]:
    numbers = values if isinstance(values, list) else []
    if len(numbers) != 3 or not all(isinstance(v, int | float) and math.isfinite(v) for v in numbers):
        raise InputError(f"A box's {name} is three numbers, it is {ascii(values)[:100]}.")
    return [float(v) for v in numbers]
