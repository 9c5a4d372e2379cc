"""NIfTI-1 and -2 in a single file; the voxels are inflated by isal. ``nifti_header`` says where they lie."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medai.domain import LabelMap, Volume
from medai.geometry import VolumeGeometry
from medai.volume_io.nifti_header import NiftiHeader, is_gzipped, read_nifti_header
from medai.volume_io.options import ReadBudget, ReadOptions
from medai.volume_io.segments import named_segments
from medai.volume_io.voxel_stream import (
    HU_TYPES,
    LABEL_TYPES,
    OnVoxels,
    VoxelLayout,
    VoxelSource,
    check_promise,
    read_voxels,
)

_log = logging.getLogger(__name__)
_SUFFIXES = (".nii", ".nii.gz")


class NiftiReader:
    """Reads ``.nii`` and ``.nii.gz``."""

    name = "NIfTI (.nii, .nii.gz)"

    def can_read(self, path: Path) -> bool:
        """True by the ending of the name."""
        return path.is_file() and path.name.lower().endswith(_SUFFIXES)

    def is_for_slicer(self, path: Path) -> bool:
        """See ``readers.is_for_slicer``."""
        return read_nifti_header(path).is_for_slicer

    def read_geometry(self, path: Path, budget: ReadBudget) -> VolumeGeometry:
        """Shape and affine from the header alone."""
        header = read_nifti_header(path)
        check_promise(_source(path, header), _layout(header), budget)
        return header.geometry

    def read_volume(self, path: Path, options: ReadOptions) -> Volume:
        """The scan; HU are ``stored * scl_slope + scl_inter``."""
        header = read_nifti_header(path)
        image_hu = _voxels(path, header, HU_TYPES, options.budget, options.watcher(header.geometry))
        return Volume(geometry=header.geometry, image_hu=image_hu, notes=header.notes)

    def read_label_map(self, path: Path, budget: ReadBudget) -> LabelMap:
        """The labels, named ``label_k``: NIfTI stores no names."""
        header = read_nifti_header(path)
        labels = _voxels(path, header, LABEL_TYPES, budget)
        return LabelMap(geometry=header.geometry, labels=labels, segments=named_segments(labels, ()))


def _source(path: Path, header: NiftiHeader) -> VoxelSource:
    return VoxelSource(path=path, encoding="gzip" if is_gzipped(path) else "raw", name=path.name, skip=header.offset)


def _layout(header: NiftiHeader) -> VoxelLayout:
    return VoxelLayout(
        shape=header.geometry.shape_ijk, dtype=header.dtype, slope=header.slope, intercept=header.intercept
    )


def _voxels(
    path: Path,
    header: NiftiHeader,
    types: tuple[type[np.generic], ...],
    budget: ReadBudget,
    on_voxels: OnVoxels | None = None,
) -> NDArray[np.generic]:
    for note in header.notes:
        _log.warning("%s", note)
    return read_voxels(_source(path, header), _layout(header), types, budget=budget, on_voxels=on_voxels)
