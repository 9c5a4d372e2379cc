"""A label map that covers part of a scan, put back on the whole scan's grid.

3D Slicer crops a segmentation to its segments when it saves one; the voxels still coincide with the scan's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medai.domain import LabelMap
from medai.errors import GeometryError
from medai.geometry import IndexBox, VolumeGeometry

_TOLERANCE_VOXELS = 0.05


def place_label_map(label_map: LabelMap, geometry: VolumeGeometry) -> LabelMap:
    """Put a label map on a scan's grid by whole voxels; no resampling.

    Args:
        label_map: on the same grid, or on a cropped or padded piece of it.
        geometry: the scan's grid.

    Returns:
        The label map on ``geometry``; voxels outside the scan must be background.

    Raises:
        GeometryError: the voxels do not coincide with the scan's, or labelled ones lie outside it.
    """
    if label_map.geometry.is_same_grid(geometry):
        return LabelMap(geometry=geometry, labels=label_map.labels, segments=label_map.segments)
    start = np.rint(geometry.ras_to_ijk(label_map.geometry.origin_ras_mm)).astype(int)
    size = label_map.geometry.shape_ijk
    box = IndexBox(start_ijk=tuple(start.tolist()), stop_ijk=tuple((start + size).tolist()))
    if not geometry.crop(box).is_same_grid(label_map.geometry, _TOLERANCE_VOXELS):
        raise GeometryError(
            f"The label map ({label_map.geometry.describe()}) is not on the scan's grid ({geometry.describe()}). "
            "Export it with the scan as reference volume."
        )
    inside = box.clip(geometry.shape_ijk)
    labels: NDArray[np.generic] = np.zeros(geometry.shape_ijk, dtype=label_map.labels.dtype, order="F")
    if not inside.is_empty:
        source = inside.shift((-start).tolist())
        labels[inside.slices] = label_map.labels[source.slices]
    lost = int(np.count_nonzero(label_map.labels)) - int(np.count_nonzero(labels))
    if lost:
        raise GeometryError(f"{lost} labelled voxels lie outside the scan ({geometry.describe()}). Is it another scan?")
    return LabelMap(geometry=geometry, labels=labels, segments=label_map.segments)
