"""A label as its scan has it: on the scan's grid, its values counted from 1, each value with its name.

One piece of code for every door: what a client submits, what somebody puts into ``labels/``, what a study brings along
that was annotated with stock MONAI Label, and what the history keeps. Headers are judged before voxels are decoded, so
that a file cannot ask for more memory than its scan justifies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medai.domain import LabelMap, Segment
from medai.errors import GeometryError, InputError
from medai.geometry import IndexBox, VolumeGeometry
from medai.volume_io.axes import axes_along, with_axes_of
from medai.volume_io.label_names import SCRIBBLES, distinct_names, name_values, read_label_info, says_nothing_found
from medai.volume_io.options import ReadBudget
from medai.volume_io.readers import read_geometry, read_label_map
from medai.volume_io.regrid import place_label_map
from medai.volume_io.segments import palette_colour, present_values

MOST_SEGMENTS = 255
"""Labels are stored as uint8."""

LABEL_BUDGET = ReadBudget(largest_voxels=1 << 30)
"""Of a label, all layers of a segmentation together: a 1024×1024×1000 scan."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScanLabel:
    """A label on its scan's grid.

    Attributes:
        label_map: uint8 on the scan's own grid, values 1, 2, … without a gap, each with voxels and a name of its own.
        values: what the file's voxels hold for each of these segments, in their order.
        says_nothing_found: whether its annotator said that the scan has no nodule.
    """

    label_map: LabelMap
    values: tuple[int, ...]
    says_nothing_found: bool

    @property
    def is_unfinished(self) -> bool:
        """True where it holds no labelled voxel, and nobody said that there is nothing to label."""
        return not self.values and not self.says_nothing_found

    @property
    def names_in_file(self) -> list[dict[str, Any]]:
        """``label_info`` by which the same file is read the same way again: each name with the file's own value."""
        names = [segment.name for segment in self.label_map.segments]
        return [{"name": name, "idx": value} for name, value in zip(names, self.values, strict=True)]


def read_scan_label(
    path: Path, scan: VolumeGeometry, said: Mapping[str, Any], *, budget: ReadBudget = LABEL_BUDGET
) -> ScanLabel:
    """Read a label for a scan.

    Args:
        path: any label map; a segmentation of 3D Slicer may be cropped and have layers, and names its values itself.
        scan: the grid of the scan it belongs to; the label's axes may run in another order or direction.
        said: what is known of the label beside its file: ``label_info`` (see ``label_names``), ``no_findings``.
        budget: the largest file that is read, all layers together.

    Raises:
        InputError: damaged, too large, no label map, or values without names.
        GeometryError: not on the scan's grid.
    """
    if path.suffix.lower() == ".json":
        raise InputError(f"{path.name} is a detection markup, not an outline.")
    is_segmentation = _check_header(path, scan, budget)
    label_map = place_label_map(with_axes_of(scan, read_label_map(path, budget=budget)), scan)
    in_file = {segment.value: segment.name for segment in label_map.segments}
    label_info = read_label_info(said)
    present = present_values(label_map.labels)
    if label_info and not is_segmentation:
        names = name_values(present, label_info)
    else:
        names = {value: in_file[value] for value in present}
    names = {value: name for value, name in names.items() if name not in SCRIBBLES}
    if len(names) > MOST_SEGMENTS:
        raise InputError(
            f"The label has {len(names)} different values, more than the {MOST_SEGMENTS} segments taken. "
            "Is it the scan instead of its label?"
        )
    words = [*(entry.name for entry in label_info), *in_file.values()]
    return ScanLabel(
        label_map=_renumbered(label_map, names, present),
        values=tuple(sorted(names)),
        says_nothing_found=not names and says_nothing_found(words, said),
    )


def _check_header(path: Path, scan: VolumeGeometry, budget: ReadBudget) -> bool:
    """Judge a label by its header; returns whether it is a segmentation, which Slicer crops and pads."""
    geometry = read_geometry(path, budget=budget)
    is_segmentation = False
    if path.name.lower().endswith(".nrrd"):
        from medai.volume_io.nrrd_header import read_nrrd_header

        fields = read_nrrd_header(path).fields
        is_segmentation = path.name.lower().endswith(".seg.nrrd") or "Segment0_ID" in fields
    # Other formats than segmentations cover the scan.
    if not is_segmentation and not axes_along(scan, geometry).geometry.is_same_grid(scan):
        raise GeometryError(
            f"The label lies on another grid than its scan's. Label: {geometry.describe()}. Scan: {scan.describe()}. "
            "Export it with the scan as reference volume."
        )
    return is_segmentation


def _renumbered(label_map: LabelMap, names: Mapping[int, str], present: Sequence[int]) -> LabelMap:
    """Values 1, 2, … in the order of the old ones; values without a name become background."""
    labels = label_map.labels
    if labels.dtype != np.uint8 or list(present) != list(range(1, len(names) + 1)):
        labels = _numbered_anew(labels, names, present)
    distinct = distinct_names([names[value] for value in sorted(names)])
    segments = tuple(
        Segment(value=value, name=name, colour_rgb=palette_colour(value))
        for value, name in enumerate(distinct, start=1)
    )
    return LabelMap(geometry=label_map.geometry, labels=labels, segments=segments)


def _numbered_anew(
    labels: NDArray[np.generic], names: Mapping[int, str], present: Sequence[int]
) -> NDArray[np.generic]:
    table = np.zeros(max([0, *present]) + 1, dtype=np.uint8)
    for new, old in enumerate(sorted(names), start=1):
        table[old] = new
    numbered: NDArray[np.generic] = np.zeros(labels.shape, dtype=np.uint8, order="F")
    box = IndexBox.of_mask(labels)
    if box is not None:
        numbered[box.slices] = table[labels[box.slices].astype(np.intp)]
    return numbered
