"""Pictures of an answer: each nodule in three planes with its outline, as a radiologist would look at it.

Planes follow the scan's own axes, at their true proportions, turned as on a workstation: right of the patient on the
left, front or head at the top.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medai.domain import LabelMap, Nodule, Prediction, Volume
from medai.errors import InputError
from medai.geometry import IndexBox, VolumeGeometry
from medai.store.atomic import publish, staged_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LUNG_WINDOW_HU = (-1350.0, 150.0)
"""Level −600, width 1500: the usual lung window."""
_MARGIN_MM = 25.0
_MOST_NODULES = 8
_PLANES = (("axial", 2), ("coronal", 1), ("sagittal", 0))
_ENDINGS = (".png", ".jpg", ".pdf", ".svg")


def draw_prediction(
    volume: Volume, prediction: Prediction, label_map: LabelMap, path: Path, *, title: str = ""
) -> None:
    """Draw the first nodules of a prediction, a row each: axial, coronal, sagittal, and where it lies in the scan.

    Args:
        volume: the scan.
        prediction: its nodules.
        label_map: the same nodules as segments, whose names and colours are used.
        path: picture to write; .png, .jpg, .pdf or .svg.
        title: above everything.

    Raises:
        InputError: another ending.
        StorageError: the picture could not be written.
    """
    if path.suffix not in _ENDINGS:
        raise InputError(f"A picture ends in {', '.join(_ENDINGS)}, not '{path.name}'.")
    from matplotlib.figure import Figure

    shown = prediction.nodules[:_MOST_NODULES]
    figure = Figure(figsize=(12, 3.1 * max(1, len(shown)) + 0.4), layout="constrained", facecolor="black")
    axes = figure.subplots(max(1, len(shown)), 4, squeeze=False)
    for row, (nodule, segment) in enumerate(zip(shown, label_map.segments, strict=False)):
        _draw_nodule(axes[row], volume, nodule, segment.name, segment.colour_rgb)
    if not shown:
        for plot, (plane, axis) in zip(axes[0], _PLANES, strict=False):
            _show_plane(
                plot, volume, axis, volume.geometry.shape_ijk[axis] // 2, IndexBox.of_shape(volume.image_hu.shape)
            )
            plot.set_title(f"no nodule, {plane}", color="white", fontsize=9)
    for plot in axes.ravel():
        plot.set_axis_off()
    figure.suptitle(title, color="white", fontsize=11)
    with staged_file(path) as staged:
        figure.savefig(staged, dpi=110, format=path.suffix[1:], facecolor="black")
        publish(staged, path)


def _draw_nodule(
    row: Sequence[Axes], volume: Volume, nodule: Nodule, name: str, colour: tuple[float, float, float]
) -> None:
    geometry = volume.geometry
    margin = [int(np.ceil(_MARGIN_MM / spacing)) for spacing in geometry.spacing_mm]
    around = nodule.box.expand(margin).clip(geometry.shape_ijk)
    centre = [int(c) for c in np.rint(geometry.ras_to_ijk(nodule.centre_ras_mm))]
    for plot, (plane, axis) in zip(row, _PLANES, strict=False):
        index = int(np.clip(centre[axis], nodule.box.start_ijk[axis], nodule.box.stop_ijk[axis] - 1))
        _show_plane(plot, volume, axis, index, around)
        _outline(plot, geometry, nodule, axis, index, around, colour)
        plot.set_title(f"{plane} {index}", color="white", fontsize=8, loc="right")
    # A line above the planes' own titles, so that a long name runs over the picture beside it and hides nothing.
    row[0].set_title(f"{name}\n", color=colour, fontsize=9, loc="left")
    whole = IndexBox.of_shape(geometry.shape_ijk)
    _show_plane(row[3], volume, 2, centre[2], whole)
    _outline(row[3], geometry, nodule, 2, centre[2], whole, colour)
    row[3].set_title(f"slice {centre[2]}", color="white", fontsize=8, loc="right")


def _show_plane(plot: Axes, volume: Volume, axis: int, index: int, box: IndexBox) -> None:
    slices = list(box.slices)
    slices[axis] = slice(index, index + 1)
    plane, spacing = turned_slice(np.asarray(volume.image_hu[tuple(slices)]), volume.geometry, axis)
    low, high = LUNG_WINDOW_HU
    plot.imshow(plane, cmap="gray", vmin=low, vmax=high, aspect=spacing[0] / spacing[1], interpolation="bilinear")


def _outline(
    plot: Axes,
    geometry: VolumeGeometry,
    nodule: Nodule,
    axis: int,
    index: int,
    box: IndexBox,
    colour: tuple[float, float, float],
) -> None:
    if not nodule.box.start_ijk[axis] <= index < nodule.box.stop_ijk[axis]:
        return
    mask = np.zeros(box.shape_ijk, dtype=np.float32)
    mask[nodule.box.shift([-s for s in box.start_ijk]).slices] = nodule.mask
    at = [slice(None)] * 3
    at[axis] = slice(index - box.start_ijk[axis], index - box.start_ijk[axis] + 1)
    plane, _ = turned_slice(mask[tuple(at)], geometry, axis)
    if plane.any():
        plot.contour(plane, levels=[0.5], colors=[colour], linewidths=1.3)


def turned_slice(
    slab: NDArray[np.generic], geometry: VolumeGeometry, axis: int
) -> tuple[NDArray[np.generic], tuple[float, float]]:
    """One slice as rows and columns for the screen, with the spacing between rows and between columns in mm.

    Args:
        slab: voxels [i, j, k] of which ``axis`` has one.
        geometry: of the scan.
        axis: the one at right angles to the screen.
    """
    plane = np.squeeze(slab, axis=axis)
    across, down = (n for n in range(3) if n != axis)
    directions = geometry.directions_ras
    # The axis that runs most along head-foot, else front-back, goes down the screen.
    if abs(directions[2, across]) > abs(directions[2, down]) or (
        axis == 2 and abs(directions[1, across]) > abs(directions[1, down])
    ):
        across, down = down, across
        plane = plane.T
    plane = plane.T
    world_down = int(np.argmax(np.abs(directions[:, down])))
    world_across = int(np.argmax(np.abs(directions[:, across])))
    if directions[world_down, down] > 0:
        plane = plane[::-1]
    # Right of the patient (and the front, in the sagittal plane) on the left of the picture.
    if directions[world_across, across] > 0:
        plane = plane[:, ::-1]
    return plane, (geometry.spacing_mm[down], geometry.spacing_mm[across])
