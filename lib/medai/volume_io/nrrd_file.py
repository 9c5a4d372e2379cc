"""NRRD, Slicer's own format: pynrrd parses the header, the voxels are inflated by isal.

Header lines are decoded as UTF-8 before pynrrd sees them, because it drops every byte beyond ASCII and segment names
hold "·". A detached header (.nhdr) may only point into its own folder.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from medai.domain import LabelMap, Segment, Volume
from medai.errors import InputError
from medai.geometry import VolumeGeometry
from medai.geometry.frames import affine_lps_to_ras
from medai.volume_io.options import ReadBudget, ReadOptions
from medai.volume_io.segments import StoredSegment, named_segments, read_segment_header
from medai.volume_io.voxel_stream import HU_TYPES, LABEL_TYPES, OnVoxels, VoxelLayout, build_voxels, read_voxels

_log = logging.getLogger(__name__)

_LONGEST_HEADER_BYTES = 4 << 20
_COLOUR_KINDS = ("rgb", "rgba", "vector", "complex", "covariant", "normal", "quaternion", "matrix")

# Signs that bring a space's axes to LPS. A file without orientation, or in an unnamed 3D space, is taken as ITK and
# Slicer take it: as LPS.
_SIGNS_TO_LPS: dict[str, tuple[float, float, float]] = {
    "left-posterior-superior": (1.0, 1.0, 1.0),
    "lps": (1.0, 1.0, 1.0),
    "right-anterior-superior": (-1.0, -1.0, 1.0),
    "ras": (-1.0, -1.0, 1.0),
    "left-anterior-superior": (1.0, -1.0, 1.0),
    "las": (1.0, -1.0, 1.0),
    "3d-right-handed": (1.0, 1.0, 1.0),
    "": (1.0, 1.0, 1.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NrrdHeader:
    """A parsed header and where its voxels are.

    Attributes:
        fields: as pynrrd names them.
        data_path: the file that holds the voxels, the header's own unless it is detached.
        data_start: first byte of the voxels in ``data_path``.
    """

    fields: dict[str, Any]
    data_path: Path
    data_start: int


class NrrdReader:
    """Reads ``.nrrd``, ``.seg.nrrd`` and ``.nhdr``."""

    name = "NRRD (.nrrd, .seg.nrrd, .nhdr)"

    def can_read(self, path: Path) -> bool:
        """True by the ending of the name."""
        return path.is_file() and path.suffix.lower() in (".nrrd", ".nhdr")

    def read_geometry(self, path: Path, budget: ReadBudget) -> VolumeGeometry:
        """Shape and affine from the header alone."""
        header = read_nrrd_header(path)
        geometry = _geometry(header.fields, path.name)[0]
        budget.check(header.fields["sizes"], _stored_type(header, path.name).itemsize, path.name)
        return geometry

    def read_volume(self, path: Path, options: ReadOptions) -> Volume:
        """The scan."""
        header = read_nrrd_header(path)
        geometry, axes = _geometry(header.fields, path.name)
        sizes = [int(n) for n in header.fields["sizes"]]
        _refuse_colours(header.fields, axes, path.name)
        if len(sizes) != 3 and int(np.prod(sizes)) != int(np.prod(geometry.shape_ijk)):
            raise InputError(
                f"{path.name} has {len(sizes)} axes ({'×'.join(map(str, sizes))}); a scan has three. "
                "Export one volume of it."
            )
        on_voxels = options.watcher(geometry) if tuple(sizes) == geometry.shape_ijk else None
        voxels = _voxels(header, HU_TYPES, path.name, options.budget, on_voxels)
        return Volume(geometry=geometry, image_hu=voxels.reshape(geometry.shape_ijk, order="F"))

    def read_label_map(self, path: Path, budget: ReadBudget) -> LabelMap:
        """The labels with the names and colours of a Slicer segmentation, if it is one.

        Layers (overlapping segments) are flattened: where two segments meet, the later one has the voxel, as in
        Slicer's own export. Values that occur twice are numbered anew from 1 in the order of the segments.
        """
        header = read_nrrd_header(path)
        geometry, axes = _geometry(header.fields, path.name)
        voxels = _voxels(header, LABEL_TYPES, path.name, budget)
        stored = _stored_segments(header.fields, path.name)
        layers = _layers(voxels, axes, path.name)
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


def read_nrrd_header(path: Path) -> NrrdHeader:
    """Parse a header without touching the voxels.

    Raises:
        InputError: not an NRRD file, a damaged header, or a detached file outside the header's folder.
    """
    import nrrd

    with path.open("rb") as stream:
        raw_lines: list[bytes] = []
        while (line := stream.readline(_LONGEST_HEADER_BYTES)).strip():
            raw_lines.append(line)
            if stream.tell() > _LONGEST_HEADER_BYTES:
                break
        data_start = stream.tell()
    lines = [line.decode("utf-8", errors="replace").rstrip("\r\n") for line in raw_lines]
    if not lines or not lines[0].startswith("NRRD"):
        raise InputError(f"{path.name} is not an NRRD file: it does not start with 'NRRD'.")
    try:
        fields = dict(nrrd.read_header(lines))
        sizes = [int(n) for n in fields["sizes"]]
        if int(fields["dimension"]) != len(sizes) or min(sizes) < 1:
            raise ValueError(f"dimension {fields['dimension']} with sizes {sizes}")
        fields["type"], fields["encoding"]
    except (nrrd.NRRDError, ValueError, KeyError, IndexError) as error:
        raise InputError(f"{path.name} has a damaged NRRD header: {error}.") from error
    detached = fields.get("data file", fields.get("datafile"))
    if detached is None:
        return NrrdHeader(fields=fields, data_path=path, data_start=data_start)
    return NrrdHeader(fields=fields, data_path=detached_file(path, str(detached)), data_start=0)


def detached_file(header_path: Path, name: str) -> Path:
    """The voxel file that a detached header names, which must lie in the header's own folder.

    Raises:
        InputError: several files, a path elsewhere, or no such file.
    """
    if name.split()[:1] == ["LIST"] or "%" in name:
        raise InputError(f"{header_path.name} spreads its voxels over several files ('{name}'); save it as one file.")
    if not name.isprintable():
        raise InputError(f"{header_path.name} has a damaged header: its voxel file is named {name!a}.")
    data_path = header_path.parent / name
    if data_path.resolve().parent != header_path.resolve().parent:
        raise InputError(f"{header_path.name} names a voxel file outside its own folder ('{name}'); put it beside it.")
    if not data_path.is_file():
        raise InputError(f"{header_path.name} names the voxel file '{name}', which is not beside it.")
    return data_path


def _geometry(fields: dict[str, Any], file_name: str) -> tuple[VolumeGeometry, list[int]]:
    """The grid, and which axes of the file are its i, j, k."""
    try:
        return _parse_geometry(fields, file_name)
    except (ValueError, IndexError, TypeError) as error:
        raise InputError(f"{file_name} has a damaged NRRD header: {error}.") from error


def _parse_geometry(fields: dict[str, Any], file_name: str) -> tuple[VolumeGeometry, list[int]]:
    sizes = [int(n) for n in fields["sizes"]]
    directions = fields.get("space directions")
    if directions is None:
        spacings = np.asarray(fields.get("spacings", np.ones(len(sizes))), dtype=np.float64)
        axes = [a for a in range(len(sizes)) if np.isfinite(spacings[a])] if len(sizes) > 3 else list(range(len(sizes)))
        vectors = np.diag([spacings[a] if np.isfinite(spacings[a]) else 1.0 for a in axes])
    else:
        rows = np.array([[np.nan] * 3 if row is None else row for row in directions], dtype=np.float64)
        axes = [a for a in range(len(rows)) if np.isfinite(rows[a]).all()]
        vectors = rows[axes]
    if len(axes) != 3 or vectors.shape != (3, 3):
        raise InputError(
            f"{file_name} has {len(axes)} axes in space ({'×'.join(map(str, sizes))}); a scan has three. "
            "Export one volume of it."
        )
    space = str(fields.get("space", "")).strip().lower()
    if space not in _SIGNS_TO_LPS:
        raise InputError(f"{file_name} is in the space '{space}'; save it in left-posterior-superior (LPS) or RAS.")
    affine = np.eye(4)
    affine[:3, :3] = vectors.T
    origin = np.asarray(fields.get("space origin", np.zeros(3)), dtype=np.float64)
    affine[:3, 3] = origin if np.isfinite(origin).all() else 0.0
    affine[:3] *= np.asarray(_SIGNS_TO_LPS[space])[:, None]
    shape = (sizes[axes[0]], sizes[axes[1]], sizes[axes[2]])
    return VolumeGeometry(shape_ijk=shape, affine_ijk_to_ras_mm=affine_lps_to_ras(affine)), axes


def _refuse_colours(fields: dict[str, Any], axes: Sequence[int], file_name: str) -> None:
    kinds = [str(kind).lower() for kind in fields.get("kinds", [])]
    for axis, kind in enumerate(kinds):
        if axis not in axes and any(word in kind for word in _COLOUR_KINDS) and int(fields["sizes"][axis]) > 1:
            raise InputError(f"{file_name} holds several values a voxel ({kind}), not Hounsfield units.")


def _stored_type(header: NrrdHeader, file_name: str) -> np.dtype[Any]:
    import nrrd

    # The only table of NRRD's type names in pynrrd is behind this function (pinned below 2.0 for it).
    from nrrd.reader import _determine_datatype

    try:
        dtype = cast("np.dtype[Any]", _determine_datatype(header.fields))
    except (nrrd.NRRDError, KeyError) as error:
        raise InputError(f"{file_name} cannot be read: {error}. Save it again as gzip-compressed NRRD.") from error
    if dtype.kind not in "iuf":
        raise InputError(f"{file_name} holds '{header.fields['type']}' blocks, not numbers.")
    return dtype


def _voxels(
    header: NrrdHeader,
    types: tuple[type[np.generic], ...],
    file_name: str,
    budget: ReadBudget,
    on_voxels: OnVoxels | None = None,
) -> NDArray[np.generic]:
    import nrrd
    from nrrd.reader import read_data

    fields = header.fields
    skips = ("line skip", "lineskip", "byte skip", "byteskip")
    encoding = str(fields["encoding"]).lower()
    dtype = _stored_type(header, file_name)
    try:
        if encoding in ("raw", "gzip", "gz") and not any(fields.get(skip) for skip in skips):
            layout = VoxelLayout(shape=tuple(int(n) for n in fields["sizes"]), dtype=dtype)
            return read_voxels(
                header.data_path,
                layout,
                types,
                budget=budget,
                gzipped=encoding != "raw",
                start=header.data_start,
                file_name=file_name,
                on_voxels=on_voxels,
            )
        budget.check(fields["sizes"], dtype.itemsize, file_name)
        with header.data_path.open("rb") as stream:
            stream.seek(header.data_start)
            attached = {k: v for k, v in fields.items() if k not in ("data file", "datafile")}
            values = cast("NDArray[Any]", read_data(attached, stream))
    except (nrrd.NRRDError, KeyError, ValueError, OSError, EOFError) as error:
        raise InputError(f"{file_name} cannot be read: {error}. Save it again as gzip-compressed NRRD.") from error
    return build_voxels(values, types, file_name)


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
