"""MetaImage (.mha, .mhd), read and written by ITK."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medai.domain import LabelMap, Volume
from medai.errors import InputError
from medai.geometry import VolumeGeometry
from medai.geometry.frames import affine_from_itk, affine_to_itk
from medai.volume_io.gzip_stream import DAMAGED_STREAM_ERRORS, zlib_stream_size
from medai.volume_io.nrrd_file import detached_file
from medai.volume_io.options import ReadBudget, ReadOptions
from medai.volume_io.segments import named_segments
from medai.volume_io.voxel_stream import HU_TYPES, LABEL_TYPES, build_voxels

_LONGEST_HEADER_BYTES = 1 << 16


class MetaImageReader:
    """Reads ``.mha`` and ``.mhd``."""

    name = "MetaImage (.mha, .mhd)"

    def can_read(self, path: Path) -> bool:
        """True by the ending of the name."""
        return path.is_file() and path.suffix.lower() in (".mha", ".mhd")

    def read_geometry(self, path: Path, budget: ReadBudget) -> VolumeGeometry:
        """Shape and affine from the header alone."""
        return _read_header(path, budget)[1]

    def read_volume(self, path: Path, options: ReadOptions) -> Volume:
        """The scan."""
        geometry, voxels = _read(path, HU_TYPES, options.budget)
        return Volume(geometry=geometry, image_hu=voxels)

    def read_label_map(self, path: Path, budget: ReadBudget) -> LabelMap:
        """The labels, named ``label_k``: MetaImage stores no names."""
        geometry, labels = _read(path, LABEL_TYPES, budget)
        return LabelMap(geometry=geometry, labels=labels, segments=named_segments(labels, ()))


def write_meta_image(path: Path, voxels: NDArray[np.generic], geometry: VolumeGeometry) -> None:
    """Write a compressed MetaImage (not atomic: the caller gives a temporary path)."""
    import itk

    # ITK takes [k, j, i]; the transposed view of a Fortran-ordered array is passed without a copy.
    image = itk.image_view_from_array(np.ascontiguousarray(voxels.T))
    origin_lps_mm, spacing_mm, direction = affine_to_itk(geometry.affine_ijk_to_ras_mm)
    image.SetOrigin([float(x) for x in origin_lps_mm])
    image.SetSpacing([float(x) for x in spacing_mm])
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(direction)))
    itk.imwrite(image, str(path), compression=True, imageio=itk.MetaImageIO.New())


def _read_header(path: Path, budget: ReadBudget) -> tuple[Any, VolumeGeometry]:
    import itk

    _find_voxels(path)
    header = itk.MetaImageIO.New()
    header.SetFileName(str(path))
    try:
        header.ReadImageInformation()
        voxel_bytes = int(header.GetComponentSize())
    except RuntimeError as error:
        raise InputError(f"{path.name} has a damaged MetaImage header. Export the scan again.") from error
    axes = int(header.GetNumberOfDimensions())
    shape = tuple(int(header.GetDimensions(a)) for a in range(axes))
    if axes != 3:
        raise InputError(
            f"{path.name} has {axes} axes ({'×'.join(map(str, shape))}); a scan has three. Export one volume of it."
        )
    if int(header.GetNumberOfComponents()) != 1:
        raise InputError(
            f"{path.name} holds {header.GetNumberOfComponents()} values a voxel (colours or vectors), not Hounsfield "
            "units."
        )
    budget.check(shape, voxel_bytes, path.name)
    affine = affine_from_itk(
        [header.GetOrigin(a) for a in range(3)],
        [header.GetSpacing(a) for a in range(3)],
        np.column_stack([header.GetDirection(a) for a in range(3)]),
    )
    return header, VolumeGeometry(shape_ijk=(shape[0], shape[1], shape[2]), affine_ijk_to_ras_mm=affine)


@dataclass(frozen=True, slots=True, kw_only=True)
class _StoredVoxels:
    """Where the voxels are: ``start`` bytes into ``path``; ``byte_count`` of them, before compression."""

    path: Path
    start: int
    byte_count: int
    compressed: bool


def _find_voxels(path: Path) -> _StoredVoxels:
    """Read the header text ourselves, to refuse what ITK would follow or misread silently: other folders, cut files."""
    with path.open("rb") as stream:
        head = stream.read(_LONGEST_HEADER_BYTES)
    fields: dict[str, str] = {}
    position = 0
    for line in head.split(b"\n"):
        position += len(line) + 1
        key, separator, value = line.decode("ascii", errors="replace").partition("=")
        if not separator:
            break
        fields[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            break
    if "ElementDataFile" not in fields or "DimSize" not in fields:
        raise InputError(f"{path.name} is not a MetaImage: it has no DimSize or ElementDataFile line.")
    local = fields["ElementDataFile"].upper() == "LOCAL"
    data_path = path if local else detached_file(path, fields["ElementDataFile"])
    voxels = _StoredVoxels(
        path=data_path,
        start=position if local else 0,
        byte_count=_byte_count(fields),
        compressed=fields.get("CompressedData", "False").lower() == "true",
    )
    found = data_path.stat().st_size - voxels.start
    if not voxels.compressed and found < voxels.byte_count:
        raise InputError(_truncated(path.name, voxels.byte_count))
    return voxels


def _check_compressed_voxels(voxels: _StoredVoxels, name: str) -> None:
    """ITK only prints a line when the voxels do not inflate, and hands out what was in memory."""
    try:
        with voxels.path.open("rb") as stream:
            stream.seek(voxels.start)
            size = zlib_stream_size(stream)
    except DAMAGED_STREAM_ERRORS as error:
        raise InputError(f"{name} is damaged or truncated ({error}). Copy or export it again.") from error
    if size != voxels.byte_count:
        raise InputError(_truncated(name, voxels.byte_count))


def _truncated(name: str, needed: int) -> str:
    return f"{name} is truncated: its header promises {needed} bytes of voxels. Copy or export it again."


def _byte_count(fields: dict[str, str]) -> int:
    sizes = {"CHAR": 1, "SHORT": 2, "INT": 4, "FLOAT": 4, "LONG": 4, "DOUBLE": 8, "LONG_LONG": 8}
    kind = fields.get("ElementType", "").removeprefix("MET_").removeprefix("U")
    count = sizes.get(kind, 1)
    for n in fields["DimSize"].split():
        count *= int(n) if n.isdecimal() else 0
    return count


def _read(
    path: Path, types: tuple[type[np.generic], ...], budget: ReadBudget
) -> tuple[VolumeGeometry, NDArray[np.generic]]:
    import itk

    header, geometry = _read_header(path, budget)
    voxels = _find_voxels(path)
    if voxels.compressed:
        _check_compressed_voxels(voxels, path.name)
    try:
        # Types that ITK's Python side lacks (signed char, long) are read as double.
        image = itk.imread(str(path), pixel_type=itk.D, fallback_only=True, imageio=header)
    except RuntimeError as error:
        raise InputError(f"{path.name} is damaged or truncated. Copy or export it again.") from error
    # [k, j, i] in C order is [i, j, k] with i fastest. Copied slab by slab: ITK frees its buffer with the image.
    view = itk.array_view_from_image(image).T
    return geometry, build_voxels(view, types, path.name)
