"""Axes of files: checked as they are read, and label maps stored in another order turned into the scan's.

Programs that write NIfTI through another library often permute or reverse axes: the grid in the patient is the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.domain import LabelMap
from medai.errors import GeometryError
from medai.geometry import IndexBox, VolumeGeometry

_RIGHT_ANGLES = "not at right angles"


def file_geometry(
    shape_ijk: tuple[int, int, int], affine_ijk_to_ras_mm: NDArray[np.float64], name: str
) -> VolumeGeometry:
    """The grid that a file states.

    Raises:
        GeometryError: it is no grid at right angles; the message says what to do with such a file.
    """
    try:
        return VolumeGeometry(shape_ijk=shape_ijk, affine_ijk_to_ras_mm=affine_ijk_to_ras_mm)
    except GeometryError as error:
        if _RIGHT_ANGLES not in str(error):
            raise GeometryError(f"{name} has no usable place in the patient. {error}") from error
        axes = affine_ijk_to_ras_mm[:3, :3] / np.linalg.norm(affine_ijk_to_ras_mm[:3, :3], axis=0)
        raise GeometryError(
            f"{name} has axes that are {_RIGHT_ANGLES} (gantry tilt or a sheared affine: {axes.round(4).tolist()}). "
            "Import the DICOM series it was made from with 'medai import --correct-tilt', or resample it in 3D Slicer "
            "(Resample Scalar/Vector/DWI Volume) and save it."
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AxesChange:
    """How to store a grid's voxels along another grid's axes.

    Attributes:
        order: the n-th new axis is the old axis ``order[n]``.
        reversed_axes: new axes that count from the other end.
        geometry: the same voxels, counted the new way.
    """

    order: tuple[int, ...]
    reversed_axes: tuple[int, ...]
    geometry: VolumeGeometry


def axes_along(scan: VolumeGeometry, geometry: VolumeGeometry) -> AxesChange:
    """Find the permutation and reversals after which the axes of ``geometry`` run as close to the scan's as they can.

    Nothing changes where two of its axes are nearest to the same axis of the scan: such a grid is another one.
    """
    steps = np.linalg.inv(scan.affine_ijk_to_ras_mm)[:3, :3] @ geometry.affine_ijk_to_ras_mm[:3, :3]
    order = tuple(int(axis) for axis in np.argmax(np.abs(steps), axis=1))
    if sorted(order) != [0, 1, 2]:
        return AxesChange(order=(0, 1, 2), reversed_axes=(), geometry=geometry)
    i, j, k = (geometry.shape_ijk[axis] for axis in order)
    changed = VolumeGeometry(shape_ijk=(i, j, k), affine_ijk_to_ras_mm=geometry.affine_ijk_to_ras_mm[:, [*order, 3]])
    reversed_axes = tuple(axis for axis in range(3) if steps[axis, order[axis]] < 0)
    for axis in reversed_axes:
        changed = changed.with_axis_reversed(axis)
    return AxesChange(order=order, reversed_axes=reversed_axes, geometry=changed)


def with_axes_of(scan: VolumeGeometry, label_map: LabelMap) -> LabelMap:
    """The label map with its axes along the scan's."""
    change = axes_along(scan, label_map.geometry)
    if change.order == (0, 1, 2) and not change.reversed_axes:
        return label_map
    labels: NDArray[np.generic] = np.zeros(change.geometry.shape_ijk, dtype=label_map.labels.dtype, order="F")
    box = IndexBox.of_mask(label_map.labels)
    if box is not None:
        # Copying in another order is slow and a label map is nearly all zero: only its box is copied, through a view of
        # the new array in the old order.
        in_old_order = np.flip(labels, change.reversed_axes).transpose(np.argsort(change.order))
        in_old_order[box.slices] = label_map.labels[box.slices]
    return LabelMap(geometry=change.geometry, labels=labels, segments=label_map.segments)
