"""The single nodules in a label map: annotators keep a segment a nodule, or all of them in one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.domain.crumbs import is_crumb
from medai.geometry import IndexBox


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelComponent:
    """A connected part of a label map.

    Attributes:
        value: the label value.
        box: where it lies in the label map.
        mask: bool, shape ``box.shape_ijk``.
    """

    value: int
    box: IndexBox
    mask: NDArray[np.bool_]

    def extent_mm(self, spacing_mm: tuple[float, float, float]) -> float:
        """Longest side of the box."""
        return max(count * spacing for count, spacing in zip(self.box.shape_ijk, spacing_mm, strict=True))


def label_components(labels: NDArray[np.generic], spacing_mm: tuple[float, float, float]) -> Iterator[LabelComponent]:
    """The connected components (corners touch) of every label value that can be nodules, values rising.

    Args:
        labels: whole numbers, 0 is background.
        spacing_mm: of their grid; what is too small on it is left out (``domain.crumbs``).
    """
    from scipy import ndimage

    voxel_volume_mm3 = float(np.prod(spacing_mm))
    outer = IndexBox.of_mask(labels)
    if outer is None:
        return
    inside = labels[outer.slices]
    for value in np.unique(inside[inside != 0]):
        numbered, _ = ndimage.label(inside == value, structure=np.ones((3, 3, 3), dtype=bool))
        for number, slices in enumerate(ndimage.find_objects(numbered), start=1):
            component = numbered[slices] == number
            if not is_crumb(int(np.count_nonzero(component)), voxel_volume_mm3):
                box = IndexBox(
                    start_ijk=(int(slices[0].start), int(slices[1].start), int(slices[2].start)),
                    stop_ijk=(int(slices[0].stop), int(slices[1].stop), int(slices[2].stop)),
                )
                yield LabelComponent(value=int(value), box=box.shift(outer.start_ijk), mask=component)
