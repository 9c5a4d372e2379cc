"""NIfTI-1 and -2: nibabel reads the header (sform and qform rules, scaling), the voxels are inflated by isal."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medai.domain import LabelMap, Volume
from medai.errors import InputError
from medai.geometry import VolumeGeometry
from medai.volume_io.options import ReadBudget, ReadOptions
from medai.volume_io.segments import named_segments
from medai.volume_io.voxel_stream import HU_TYPES, LABEL_TYPES, OnVoxels, VoxelLayout, read_voxels

_SUFFIXES = (".nii", ".nii.gz")
# The header stores the unit of length; files without one are in millimetres by custom (ITK and nibabel agree).
_UNIT_BITS = 7
_UNIT_MM = {1: 1000.0, 2: 1.0, 3: 0.001}


class NiftiReader:
    """Reads ``.nii`` and ``.nii.gz``."""

    name = "NIfTI (.nii, .nii.gz)"

    def can_read(self, path: Path) -> bool:
        """True by the ending of the name."""
        return path.is_file() and path.name.lower().endswith(_SUFFIXES)

    def read_geometry(self, path: Path, budget: ReadBudget) -> VolumeGeometry:
        """Shape and affine from the header alone."""
        image = _load_header(path)
        geometry = _geometry(image, path.name)
        budget.check(geometry.shape_ijk, image.dataobj.dtype.itemsize, path.name)
        return geometry

    def read_volume(self, path: Path, options: ReadOptions) -> Volume:
        """The scan; HU are ``stored * scl_slope + scl_inter``."""
        image = _load_header(path)
        geometry = _geometry(image, path.name)
        voxels = _voxels(image, path, geometry, HU_TYPES, options.budget, options.watcher(geometry))
        return Volume(geometry=geometry, image_hu=voxels)

    def read_label_map(self, path: Path, budget: ReadBudget) -> LabelMap:
        """The labels, named ``label_k``: NIfTI stores no names."""
        image = _load_header(path)
        geometry = _geometry(image, path.name)
        labels = _voxels(image, path, geometry, LABEL_TYPES, budget)
        return LabelMap(geometry=geometry, labels=labels, segments=named_segments(labels, ()))


def _load_header(path: Path) -> Any:
    import nibabel as nib

    try:
        image = nib.load(path)
    except (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError) as error:
        raise InputError(f"{path.name} is not a readable NIfTI file: {error}") from error
    except (OSError, EOFError, ValueError, zlib.error, struct.error) as error:
        raise InputError(f"{path.name} is damaged or truncated ({error}). Copy or export it again.") from error
    if not isinstance(image, nib.Nifti1Image):
        raise InputError(f"{path.name} is not a NIfTI-1 or NIfTI-2 file. Export the scan as .nii.gz.")
    return image


def _geometry(image: Any, file_name: str) -> VolumeGeometry:
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise InputError(
            f"{file_name} has {len(shape)} axes ({'×'.join(map(str, shape))}); a scan has three. "
            "Export one volume of it."
        )
    dtype = image.dataobj.dtype
    if dtype.kind not in "iufb":
        raise InputError(
            f"{file_name} holds colours or complex numbers ({dtype}), not Hounsfield units. Export the scan itself."
        )
    affine = np.asarray(image.affine, dtype=np.float64).copy()
    affine[:3] *= _UNIT_MM.get(int(image.header["xyzt_units"]) & _UNIT_BITS, 1.0)
    return VolumeGeometry(shape_ijk=(shape[0], shape[1], shape[2]), affine_ijk_to_ras_mm=affine)


def _voxels(
    image: Any,
    path: Path,
    geometry: VolumeGeometry,
    types: tuple[type[np.generic], ...],
    budget: ReadBudget,
    on_voxels: OnVoxels | None = None,
) -> NDArray[np.generic]:
    proxy = image.dataobj
    layout = VoxelLayout(
        shape=geometry.shape_ijk, dtype=proxy.dtype, slope=float(proxy.slope), intercept=float(proxy.inter)
    )
    gzipped = path.name.lower().endswith(".gz")
    return read_voxels(path, layout, types, budget=budget, gzipped=gzipped, skip=int(proxy.offset), on_voxels=on_voxels)
