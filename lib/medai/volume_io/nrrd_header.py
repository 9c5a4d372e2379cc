"""NRRD headers: pynrrd parses the lines; where the voxels lie in the patient is decided as ITK and 3D Slicer do.

Header lines are decoded as UTF-8 before pynrrd sees them, because it drops every byte beyond ASCII and segment names
hold "·"; field names are brought to one spelling, because it knows one of the several that the format allows. A
detached header (.nhdr) may only point into its own folder. ITK's ``NrrdImageIO`` and what it does with each combination
of fields is checked against the library by the tests.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from medai.errors import InputError
from medai.geometry import VolumeGeometry
from medai.geometry.frames import affine_lps_to_ras
from medai.volume_io.axes import file_geometry
from medai.volume_io.voxel_stream import Encoding, VoxelLayout, VoxelSource

_LONGEST_HEADER_BYTES = 4 << 20
_MOST_SKIPPED_LINES = 1 << 20
_SPELLINGS = {
    name.replace(" ", ""): name
    for name in (
        "axis mins", "axis maxs", "block size", "byte skip", "data file", "line skip", "measurement frame", "old min",
        "old max", "sample units", "space dimension", "space directions", "space origin", "space units",
    )
} | {"centers": "centerings"}  # fmt: skip
_DOMAIN_KINDS = ("domain", "space", "time", "???", "none")
_MILLIMETRES = ("mm", "", "millimeter", "millimeters", "millimetre", "millimetres")
_ENCODINGS: dict[str, Encoding] = {
    "raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2", "text": "text", "txt": "text",
    "ascii": "text", "hex": "hex",
}  # fmt: skip

# Signs that bring a space's axes to LPS.
_SIGNS_TO_LPS: dict[str, tuple[float, float, float]] = {
    "left-posterior-superior": (1.0, 1.0, 1.0),
    "lps": (1.0, 1.0, 1.0),
    "right-anterior-superior": (-1.0, -1.0, 1.0),
    "ras": (-1.0, -1.0, 1.0),
    "left-anterior-superior": (1.0, -1.0, 1.0),
    "las": (1.0, -1.0, 1.0),
}
_UNNAMED_SPACES = ("", "scanner-xyz", "3d-right-handed", "3d-left-handed")
"""Spaces that name no direction of the patient: ITK and 3D Slicer take them as LPS, whatever they say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NrrdHeader:
    """A parsed header and where its voxels are.

    Attributes:
        fields: as pynrrd names them.
        data_path: the file that holds the voxels, the header's own unless it is detached.
        data_start: first byte of the voxels in ``data_path``, before lines are skipped.
    """

    fields: dict[str, Any]
    data_path: Path
    data_start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NrrdGrid:
    """Where the voxels lie.

    Attributes:
        geometry: the grid, where 3D Slicer has it.
        axes: which axes of the file are its i, j, k.
        notes: what an annotator should know of the place, in sentences.
    """

    geometry: VolumeGeometry
    axes: tuple[int, ...]
    notes: tuple[str, ...]


def read_nrrd_header(path: Path) -> NrrdHeader:
    """Parse a header without touching the voxels.

    Raises:
        InputError: not an NRRD file, a damaged header, or a detached file outside the header's folder.
    """
    import nrrd

    lines, data_start = _lines(path)
    if not lines or not lines[0].startswith("NRRD"):
        raise InputError(f"{path.name} is not an NRRD file: it does not start with 'NRRD'.")
    try:
        fields = dict(nrrd.read_header([lines[0], *(_one_spelling(line) for line in lines[1:])]))
        for name in ("type", "encoding", "endian"):
            if name in fields:
                fields[name] = str(fields[name]).lower()
        sizes = [int(n) for n in fields["sizes"]]
        if int(fields["dimension"]) != len(sizes) or min(sizes) < 1:
            raise ValueError(f"dimension {fields['dimension']} with sizes {sizes[:8]}")
        fields["type"], fields["encoding"]
    except KeyError as error:
        raise InputError(f"{path.name} has a damaged NRRD header: it has no field {error}.") from error
    except (nrrd.NRRDError, ValueError, IndexError) as error:
        raise InputError(f"{path.name} has a damaged NRRD header: {error}.") from error
    detached = fields.get("data file")
    if detached is None:
        return NrrdHeader(fields=fields, data_path=path, data_start=data_start)
    return NrrdHeader(fields=fields, data_path=detached_file(path, str(detached)), data_start=0)


def _lines(path: Path) -> tuple[list[str], int]:
    """The header's lines and the byte after them. A LIST of data files ends it: file names follow, not fields."""
    raw_lines: list[bytes] = []
    with path.open("rb") as stream:
        while (line := stream.readline(_LONGEST_HEADER_BYTES)).strip():
            raw_lines.append(line)
            is_list = re.match(rb"(?i:data ?file):\s*LIST\b", line)
            if is_list or stream.tell() > _LONGEST_HEADER_BYTES:
                break
        data_start = stream.tell()
    return [line.decode("utf-8", errors="replace").rstrip("\r\n") for line in raw_lines], data_start


def _one_spelling(line: str) -> str:
    """A field's line with its name as pynrrd knows it; keys of key/value pairs, and comments, are left alone."""
    name, separator, value = line.partition(":")
    if not separator or value.startswith("=") or line.startswith("#"):
        return line
    name = " ".join(name.lower().split())
    return f"{_SPELLINGS.get(name.replace(' ', ''), name)}:{value}"


def detached_file(header_path: Path, name: str) -> Path:
    """The voxel file that a detached header names, which must lie in the header's own folder.

    Raises:
        InputError: several files, a path elsewhere, or no such file.
    """
    if name.split()[:1] == ["LIST"] or "%" in name:
        raise InputError(
            f"{header_path.name} spreads its voxels over several files ('{name}'). Open it in 3D Slicer and save it as "
            "one file."
        )
    if not name.isprintable():
        raise InputError(f"{header_path.name} has a damaged header: its voxel file is named {name!a}.")
    data_path = header_path.parent / name
    if data_path.resolve().parent != header_path.resolve().parent:
        raise InputError(f"{header_path.name} names a voxel file outside its own folder ('{name}'); put it beside it.")
    if not data_path.is_file():
        raise InputError(f"{header_path.name} names the voxel file '{name}', which is not beside it.")
    return data_path


def nrrd_grid(header: NrrdHeader, name: str) -> NrrdGrid:
    """The grid of a header.

    Raises:
        InputError: not three axes in space, or a place that 3D Slicer does not read or reads wrong.
        GeometryError: the axes are not at right angles.
    """
    try:
        return _grid(header.fields, name)
    except (ValueError, IndexError, TypeError) as error:
        raise InputError(f"{name} has a damaged NRRD header: {error}.") from error


def _grid(fields: dict[str, Any], name: str) -> NrrdGrid:
    sizes = [int(n) for n in fields["sizes"]]
    kinds = [str(kind).lower() for kind in fields.get("kinds", ["???"] * len(sizes))]
    axes = tuple(axis for axis, kind in enumerate(kinds) if kind in _DOMAIN_KINDS)
    if len(kinds) != len(sizes):
        raise ValueError(f"{len(kinds)} kinds of {len(sizes)} axes")
    if len(axes) != 3:
        raise InputError(
            f"{name} has {len(axes)} axes in space ({'×'.join(map(str, sizes))}); a scan has three. "
            "Export one volume of it."
        )
    space = str(fields.get("space", "")).strip().lower()
    if space not in _SIGNS_TO_LPS and space not in _UNNAMED_SPACES:
        raise InputError(f"{name} is in the space '{space}'; save it in left-posterior-superior (LPS) or RAS.")
    is_oriented = bool(space) or "space dimension" in fields
    if not is_oriented and "space directions" in fields:
        raise InputError(
            f"{name} has 'space directions' and no 'space'; 3D Slicer does not open it. State the space that they are "
            "in, for example 'space: left-posterior-superior', on a line before them."
        )
    shape = (sizes[axes[0]], sizes[axes[1]], sizes[axes[2]])
    affine, notes = _oriented(fields, axes, name) if is_oriented else _unoriented(fields, axes, shape, name)
    affine[:3] *= np.asarray(_SIGNS_TO_LPS.get(space, (1.0, 1.0, 1.0)))[:, None]
    if space not in _SIGNS_TO_LPS:
        notes.append(f"{name} names no directions of the patient: taken as LPS, as 3D Slicer takes it.")
    units = {str(unit).strip().lower() for unit in [*fields.get("space units", []), *fields.get("units", [])]}
    if others := sorted(units - {*_MILLIMETRES, "???"}):
        notes.append(f"{name} states its lengths in {', '.join(others)}; 3D Slicer takes them as mm, and so they are.")
    geometry = file_geometry(shape, affine_lps_to_ras(affine), name)
    return NrrdGrid(geometry=geometry, axes=axes, notes=tuple(notes))


def _oriented(fields: dict[str, Any], axes: Sequence[int], name: str) -> tuple[NDArray[np.float64], list[str]]:
    """The affine in the file's own space, where it has one."""
    for field in ("spacings", "axis mins", "axis maxs"):
        if np.isfinite(_numbers(fields, field)[list(axes)]).any():
            raise InputError(
                f"{name} has a space and also '{field}', which 3D Slicer does not open. State the size and direction "
                f"of each axis by 'space directions' and remove '{field}'."
            )
    notes: list[str] = []
    affine = np.eye(4)
    directions = fields.get("space directions")
    if directions is None:
        notes.append(_no_size(name))
    else:
        rows = np.array([[np.nan] * 3 if row is None else row for row in directions], dtype=np.float64)[list(axes)]
        if rows.shape != (3, 3) or not np.isfinite(rows).all():
            raise InputError(
                f"{name} has no 'space directions' of three numbers for each of its three axes in space: "
                f"{rows.tolist()}. Save it again, for example with 3D Slicer."
            )
        affine[:3, :3] = rows.T
    origin = np.asarray(fields.get("space origin", np.full(3, np.nan)), dtype=np.float64)
    if np.isfinite(origin).all():
        affine[:3, 3] = origin
    elif np.isfinite(origin).any():
        raise ValueError(f"space origin {origin.tolist()}")
    return affine, notes


def _unoriented(
    fields: dict[str, Any], axes: Sequence[int], shape: Sequence[int], name: str
) -> tuple[NDArray[np.float64], list[str]]:
    """The affine of a file that has an interval of each axis at most."""
    notes: list[str] = []
    spacings, lows, highs = (_numbers(fields, field)[list(axes)] for field in ("spacings", "axis mins", "axis maxs"))
    is_sized = np.isfinite(spacings)
    if np.isfinite(lows).any() and not np.isfinite(lows).all():
        raise InputError(f"{name} has 'axis mins' for some of its axes only ({lows.tolist()}). State all or none.")
    if not is_sized.all():
        if np.isfinite(lows).all() and np.isfinite(highs).all():
            stated = " ".join(f"{step:g}" for step in (highs - lows) / np.asarray(shape))
            raise InputError(
                f"{name} has 'axis mins' and 'axis maxs' without 'spacings'; 3D Slicer takes its voxels as 1 mm. "
                f"State the spacings ('spacings: {stated}' where the extremes are the outer faces)."
            )
        notes.append(_no_size(name))
    affine = np.eye(4)
    affine[:3, :3] = np.diag(np.where(is_sized, spacings, 1.0))
    if is_sized.all() and np.isfinite(lows).all():
        stated_centres = [str(word).lower() for word in fields.get("centerings", [])]
        centres = [stated_centres[axis] if axis < len(stated_centres) else "???" for axis in axes]
        affine[:3, 3] = lows + [0.0 if centre == "node" else 0.5 for centre in centres] * spacings
    return affine, notes


def _no_size(name: str) -> str:
    return f"{name} states no voxel size: taken as 1 mm along each axis without one, as 3D Slicer takes it."


def _numbers(fields: dict[str, Any], field: str) -> NDArray[np.float64]:
    """A number for each axis, NaN where there is none."""
    count = len(fields["sizes"])
    values = np.asarray(fields.get(field, np.full(count, np.nan)), dtype=np.float64)
    if values.shape != (count,):
        raise ValueError(f"{field} of {values.size} of {count} axes")
    return values


def is_for_slicer(path: Path) -> bool:
    """True where 3D Slicer reads the file too, alone: it knows no bzip2."""
    header = read_nrrd_header(path)
    return header.data_path == path and _ENCODINGS.get(str(header.fields["encoding"])) != "bzip2"


def nrrd_layout(header: NrrdHeader, name: str) -> VoxelLayout:
    """Sizes along all axes of the file, and the stored type."""
    import nrrd

    # The only table of NRRD's type names in pynrrd is behind this function (pinned below 2.0 for it).
    from nrrd.reader import _determine_datatype

    try:
        dtype = cast("np.dtype[Any]", _determine_datatype(header.fields))
    except (nrrd.NRRDError, KeyError) as error:
        raise InputError(f"{name} cannot be read: {error}. Save it again as gzip-compressed NRRD.") from error
    if dtype.kind not in "iuf":
        raise InputError(f"{name} holds '{header.fields['type']}' blocks, not numbers.")
    return VoxelLayout(shape=tuple(int(n) for n in header.fields["sizes"]), dtype=dtype)


def nrrd_source(header: NrrdHeader, name: str) -> VoxelSource:
    """Where the voxels begin: lines are skipped before a stream is inflated, bytes after.

    Raises:
        InputError: an unknown encoding, or a skip that nobody agrees on.
    """
    fields = header.fields
    encoding = _ENCODINGS.get(str(fields["encoding"]))
    if encoding is None:
        raise InputError(f"{name} has the encoding '{fields['encoding']}'. Save it again as gzip-compressed NRRD.")
    line_skip, byte_skip = int(fields.get("line skip", 0)), int(fields.get("byte skip", 0))
    if not 0 <= line_skip <= _MOST_SKIPPED_LINES or byte_skip < -1 or (byte_skip and encoding in ("text", "hex")):
        raise InputError(
            f"{name} has 'line skip: {line_skip}' and 'byte skip: {byte_skip}' before {encoding} voxels. Save it again "
            "as gzip-compressed NRRD."
        )
    start = header.data_start
    if line_skip:
        with header.data_path.open("rb") as stream:
            stream.seek(start)
            for _ in range(line_skip):
                stream.readline(_LONGEST_HEADER_BYTES)
            start = stream.tell()
    return VoxelSource(
        path=header.data_path,
        encoding=encoding,
        name=name,
        start=start,
        skip=None if byte_skip == -1 else byte_skip,
    )
