"""NRRD, Slicer's own format: ``nrrd_header`` reads the header, the voxels are inflated by isal."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medai.domain import LabelMap, Segment, Volume
from medai.errors import InputError
from medai.geometry import VolumeGeometry
from medai.volume_io.nrrd_header import NrrdHeader, is_for_slicer, nrrd_grid, nrrd_layout, nrrd_source, read_nrrd_header
from medai.volume_io.options import ReadBudget, ReadOptions
from medai.volume_io.segments import StoredSegment, named_segments, read_segment_header
from medai.volume_io.voxel_stream import HU_TYPES, LABEL_TYPES, OnVoxels, check_promise, read_voxels

_log = logging.getLogger(__name__)

_COLOUR_KINDS = ("rgb", "rgba", "vector", "complex", "covariant", "normal", "quaternion", "matrix")


class NrrdReader:
    """Reads ``.nrrd``, ``.seg.nrrd`` and ``.nhdr``."""

    name = "NRRD (.nrrd, .seg.nrrd, .nhdr)"

    def can_read(self, path: Path) -> bool:
        """True by the ending of the name."""
        return path.is_file() and path.suffix.lower() in (".nrrd", ".nhdr")

    def is_for_slicer(self, path: Path) -> bool:
        """See ``readers.is_for_slicer``."""
        return is_for_slicer(path)

    def read_geometry(self, path: Path, budget: ReadBudget) -> VolumeGeometry:
        """Shape and affine from the header alone."""
        header = read_nrrd_header(path)
        check_promise(nrrd_source(header, path.name), nrrd_layout(header, path.name), budget)
        return nrrd_grid(header, path.name).geometry

    def read_volume(self, path: Path, options: ReadOptions) -> Volume:
        """The scan."""
        header = read_nrrd_header(path)
        grid = nrrd_grid(header, path.name)
        geometry = grid.geometry
        sizes = [int(n) for n in header.fields["sizes"]]
        _refuse_colours(header.fields, grid.axes, path.name)
        if len(sizes) != 3 and int(np.prod(sizes)) != int(np.prod(geometry.shape_ijk)):
            raise InputError(
                f"{path.name} has {len(sizes)} axes ({'×'.join(map(str, sizes))}); a scan has three. "
                "Export one volume of it."
            )
        on_voxels = options.watcher(geometry) if tuple(sizes) == geometry.shape_ijk else None
        voxels = _voxels(header, HU_TYPES, grid.notes, path.name, options.budget, on_voxels)
        image_hu = voxels.reshape(geometry.shape_ijk, order="F")
        return Volume(geometry=geometry, image_hu=image_hu, notes=grid.notes)

    def read_label_map(self, path: Path, budget: ReadBudget) -> LabelMap:
        """The labels with the names and colours of a Slicer segmentation, if it is one.

        Layers (overlapping segments) are flattened: where two segments meet, the later one has the voxel, as in
        Slicer's own export. Values that occur twice are numbered anew from 1 in the order of the segments.
        """
        header = read_nrrd_header(path)
        grid = nrrd_grid(header, path.name)
        geometry = grid.geometry
        voxels = _voxels(header, LABEL_TYPES, grid.notes, path.name, budget)
        stored = _stored_segments(header.fields, path.name)
        layers = _layers(voxels, grid.axes, path.name)
        if len(layers) == 1 and len({s.value for s in stored}) == len(stored):
            labels = layers[0]
            known = [Segment(value=s.value, name=s.name, colour_rgb=s.colour_rgb) for s in stored if s.value > 0]
        elif stored:
            labels, known = _flatten(layers, stored, path.name)
        else:
            raise InputError(
                f"{path.name} has {len(layers)} values a voxel and no segment names; save it as a segmentation "
                "(.seg.nrrd) or as one label map."
            )
        return LabelMap(geometry=geometry, labels=labels, segments=named_segments(labels, known))


def _refuse_colours(fields: dict[str, Any], axes: Sequence[int], file_name: str) -> None:
    kinds = [str(kind).lower() for kind in fields.get("kinds", [])]
    for axis, kind in enumerate(kinds):
        if axis not in axes and any(word in kind for word in _COLOUR_KINDS) and int(fields["sizes"][axis]) > 1:
            raise InputError(f"{file_name} holds several values a voxel ({kind}), not Hounsfield units.")


def _voxels(
    header: NrrdHeader,
    types: tuple[type[np.generic], ...],
    notes: Sequence[str],
    file_name: str,
    budget: ReadBudget,
    on_voxels: OnVoxels | None = None,
) -> NDArray[np.generic]:
    for note in notes:
        _log.warning("%s", note)
    source, layout = nrrd_source(header, file_name), nrrd_layout(header, file_name)
    return read_voxels(source, layout, types, budget=budget, on_voxels=on_voxels)


def _stored_segments(fields: dict[str, Any], file_name: str) -> list[StoredSegment]:
    try:
        return read_segment_header(fields)
    except ValueError as error:
        raise InputError(f"{file_name} has a damaged segment description: {error}.") from error


def _layers(voxels: NDArray[np.generic], axes: Sequence[int], file_name: str) -> NDArray[np.generic]:
    """A view indexed [layer, i, j, k]."""
    if voxels.ndim > 4:
        raise InputError(f"{file_name} has {voxels.ndim} axes; a segmentation has three, or four with its layers.")
    if voxels.ndim == 3:
        return voxels[np.newaxis]
    return np.moveaxis(voxels, next(a for a in range(4) if a not in axes), 0)


def _flatten(
    layers: NDArray[np.generic], stored: Sequence[StoredSegment], file_name: str
) -> tuple[NDArray[np.generic], list[Segment]]:
    values = [s.value for s in stored]
    if len(set(values)) != len(values) or min(values) < 1:
        values = list(range(1, len(stored) + 1))
    labels = np.zeros(layers.shape[1:], dtype=np.uint8 if max(values) <= 255 else np.uint16, order="F")
    overlaps = 0
    for value, segment in zip(values, stored, strict=True):
        if segment.layer >= len(layers):
            raise InputError(f"{file_name}: segment '{segment.name}' is in layer {segment.layer} of {len(layers)}.")
        mask = layers[segment.layer] == segment.value
        overlaps += int(np.count_nonzero(labels[mask]))
        labels[mask] = value
    if overlaps:
        _log.warning("%s: segments overlap in %d voxels; the later segment has them", file_name, overlaps)
    known = [
        Segment(value=value, name=s.name, colour_rgb=s.colour_rgb) for value, s in zip(values, stored, strict=True)
    ]
    return labels, known
