"""MetaImage (.mha, .mhd): ITK reads the place from the header and writes; the voxels are read here.

ITK hands out whatever was in memory where compressed voxels do not inflate, and that is every compressed file with
its voxels inside and without the optional CompressedDataSize. So the header's text is read here too, and what ITK
would misread is read right or refused by name.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medai.domain import LabelMap, Volume
from medai.errors import InputError, UnsupportedScanError
from medai.geometry import VolumeGeometry
from medai.geometry.frames import affine_from_itk, affine_to_itk
from medai.volume_io.axes import file_geometry
from medai.volume_io.nrrd_header import detached_file
from medai.volume_io.options import ReadBudget, ReadOptions
from medai.volume_io.segments import named_segments
from medai.volume_io.voxel_stream import (
    HU_TYPES,
    LABEL_TYPES,
    Encoding,
    VoxelLayout,
    VoxelSource,
    check_promise,
    read_voxels,
)

_log = logging.getLogger(__name__)
_LONGEST_HEADER_BYTES = 1 << 16
# MET_LONG is four bytes to MetaIO, on every machine.
_STORED_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
_OTHER_MODALITIES = {"MET_MOD_MR": "MR", "MET_MOD_NM": "nuclear medicine", "MET_MOD_US": "ultrasound"}


class MetaImageReader:
    """Reads ``.mha`` and ``.mhd``."""

    name = "MetaImage (.mha, .mhd)"

    def can_read(self, path: Path) -> bool:
        """True by the ending of the name."""
        return path.is_file() and path.suffix.lower() in (".mha", ".mhd")

    def is_for_slicer(self, path: Path) -> bool:
        """See ``readers.is_for_slicer``."""
        return is_for_slicer(path)

    def read_geometry(self, path: Path, budget: ReadBudget) -> VolumeGeometry:
        """Shape and affine from the header alone."""
        return _open(path, budget).geometry

    def read_volume(self, path: Path, options: ReadOptions) -> Volume:
        """The scan."""
        image = _open(path, options.budget)
        if image.modality in _OTHER_MODALITIES:
            raise UnsupportedScanError(
                f"{path.name} is {_OTHER_MODALITIES[image.modality]} by its header (Modality = {image.modality}); "
                "medai works on CT only."
            )
        voxels = _voxels(image, HU_TYPES, options.budget)
        return Volume(geometry=image.geometry, image_hu=voxels, notes=image.notes)

    def read_label_map(self, path: Path, budget: ReadBudget) -> LabelMap:
        """The labels, named ``label_k``: MetaImage stores no names."""
        image = _open(path, budget)
        labels = _voxels(image, LABEL_TYPES, budget)
        return LabelMap(geometry=image.geometry, labels=labels, segments=named_segments(labels, ()))


def is_for_slicer(path: Path) -> bool:
    """True where 3D Slicer reads the file too, alone: it fills compressed voxels of no stated size with noise."""
    fields, header_bytes = _fields(path)
    if fields["ElementDataFile"].upper() != "LOCAL":
        return False
    stated = fields.get("CompressedDataSize", "")
    is_compressed = _is_true(fields.get("CompressedData", "False"))
    return not is_compressed or _is_number(stated, path.stat().st_size - header_bytes)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _MetaImage:
    """A header that was understood: the grid, where its voxels are, and what to tell of it."""

    geometry: VolumeGeometry
    source: VoxelSource
    layout: VoxelLayout
    modality: str
    notes: tuple[str, ...]


def _open(path: Path, budget: ReadBudget) -> _MetaImage:
    fields, header_bytes = _fields(path)
    _refuse_forms(fields, path.name)
    source = _source(fields, path, header_bytes)
    geometry = _geometry(path)
    order = ">" if _is_true(fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False"))) else "<"
    dtype = np.dtype(order + _STORED_TYPES[fields["ElementType"]])
    layout = VoxelLayout(shape=geometry.shape_ijk, dtype=dtype)
    check_promise(source, layout, budget)
    _refuse_wide_longs(fields["ElementType"], source, layout)
    unit = fields.get("DistanceUnits", "mm")
    notes = (
        (f"{path.name} states its lengths in {unit}; they are taken as mm, as 3D Slicer takes them.",)
        if unit not in ("mm", "?")
        else ()
    )
    return _MetaImage(geometry=geometry, source=source, layout=layout, modality=fields.get("Modality", ""), notes=notes)


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """The lines up to ElementDataFile, the last one, and how many bytes they are."""
    with path.open("rb") as stream:
        head = stream.read(_LONGEST_HEADER_BYTES)
    fields: dict[str, str] = {}
    position = 0
    for line in head.split(b"\n"):
        position += len(line) + 1
        text = line.decode("ascii", errors="replace")
        separator = "=" if "=" in text else ":"
        key, found, value = text.partition(separator)
        if not found:
            break
        fields[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            break
    if "ElementDataFile" not in fields or "DimSize" not in fields:
        raise InputError(f"{path.name} is not a MetaImage: it has no DimSize or ElementDataFile line.")
    return fields, position


def _refuse_forms(fields: dict[str, str], name: str) -> None:
    """Refuse the optional forms that ITK does not read, or reads as something else."""
    again = "Save it again, for example with 3D Slicer."
    if (kind := fields.get("ObjectType", "Image")) != "Image":
        raise InputError(f"{name} holds a '{kind}', not an image (ObjectType).")
    if "BinaryData" in fields and not _is_true(fields["BinaryData"]):
        raise InputError(f"{name} keeps its voxels as text (BinaryData = False), which ITK does not read. {again}")
    if fields.get("ElementType") not in _STORED_TYPES:
        raise InputError(
            f"{name} holds voxels of the type '{fields.get('ElementType', '')}' (ElementType), not single numbers."
        )
    for key, neutral in (("ElementToIntensityFunctionSlope", 1.0), ("ElementToIntensityFunctionOffset", 0.0)):
        value = fields.get(key, str(neutral))
        if not _is_number(value, neutral):
            raise InputError(
                f"{name} has {key} = {value}, which 3D Slicer ignores: its Hounsfield units are not known. Store the "
                "values themselves and remove that line."
            )


def _refuse_wide_longs(element_type: str, source: VoxelSource, layout: VoxelLayout) -> None:
    """Some programs write a long as eight bytes; MetaIO, and so 3D Slicer, reads four and halves the image."""
    found = source.path.stat().st_size - source.start
    if element_type in ("MET_LONG", "MET_ULONG") and source.encoding == "raw" and found >= 2 * layout.byte_count:
        raise InputError(
            f"{source.name} holds {found} bytes of voxels, eight each, but {element_type} is four bytes. If they are "
            f"eight, write 'ElementType = {element_type}_LONG'."
        )


def _is_number(text: str, value: float) -> bool:
    try:
        return float(text) == value
    except ValueError:
        return False


def _is_true(text: str) -> bool:
    """MetaIO's reading of a flag."""
    return text[:1] in ("T", "t", "1")


def _source(fields: dict[str, str], path: Path, header_bytes: int) -> VoxelSource:
    is_local = fields["ElementDataFile"].upper() == "LOCAL"
    data_path = path if is_local else detached_file(path, fields["ElementDataFile"])
    start = header_bytes if is_local else 0
    compressed = _is_true(fields.get("CompressedData", "False"))
    try:
        skip = int(fields.get("HeaderSize", "0"))
    except ValueError:
        skip = -2
    if skip < -1 or (skip > 0 and is_local) or (skip and compressed):
        raise InputError(
            f"{path.name} has HeaderSize = {fields['HeaderSize']} before {'compressed' if compressed else 'its'} "
            "voxels, which ITK reads in the wrong place. Save it again without HeaderSize."
        )
    encoding = _compression(data_path, start, path.name) if compressed else "raw"
    return VoxelSource(
        path=data_path, encoding=encoding, name=path.name, start=start, skip=None if skip == -1 else skip
    )


def _compression(path: Path, start: int, name: str) -> Encoding:
    with path.open("rb") as stream:
        stream.seek(start)
        magic = stream.read(2)
    if magic == b"\x1f\x8b":
        return "gzip"
    if len(magic) == 2 and magic[0] & 15 == 8 and int.from_bytes(magic, "big") % 31 == 0:
        return "zlib"
    if len(magic) < 2:
        raise InputError(f"{name} is truncated: it holds no voxels. Copy or export it again.")
    raise InputError(
        f"{name} is damaged: its compressed voxels begin as neither zlib nor gzip do. Save it again, compressed by 3D "
        "Slicer or not at all."
    )


def _geometry(path: Path) -> VolumeGeometry:
    import itk

    header = itk.MetaImageIO.New()
    header.SetFileName(str(path))
    try:
        header.ReadImageInformation()
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
    affine = affine_from_itk(
        [header.GetOrigin(a) for a in range(3)],
        [header.GetSpacing(a) for a in range(3)],
        np.column_stack([header.GetDirection(a) for a in range(3)]),
    )
    return file_geometry((shape[0], shape[1], shape[2]), affine, path.name)


def _voxels(image: _MetaImage, types: tuple[type[np.generic], ...], budget: ReadBudget) -> NDArray[np.generic]:
    for note in image.notes:
        _log.warning("%s", note)
    return read_voxels(image.source, image.layout, types, budget=budget)
