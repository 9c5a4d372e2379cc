"""Every way in which NIfTI, NRRD and MetaImage files say where their voxels lie, as small files.

The bytes are put together here field by field, so that neither medai's writers nor those of the libraries decide which
combinations there are. The voxels are labels from 0 to 2 without any symmetry: each file serves as scan and as label
map. ``itk_opens`` says what 3D Slicer does with it (checked by the test that uses the table), ``medai_opens`` what
medai does, and ``why`` where the two differ.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from tests.support.scan_factory import rotation

SHAPE_IJK = (10, 11, 12)
SPACING_MM = (0.7, 0.8, 2.5)
ORIGIN_RAS_MM = (-31.25, 44.5, -120.75)
VOXELS: NDArray[np.int16] = np.asfortranarray(
    np.random.default_rng(14).choice([0, 0, 0, 1, 2], size=SHAPE_IJK).astype("<i2")
)
DIRECTIONS_RAS = {
    "axial": np.diag([-1.0, -1.0, 1.0]),
    "flipped": np.diag([1.0, -1.0, -1.0]),
    "permuted": np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    "oblique": rotation((12.0, -23.0, 31.0)),
    "mirrored": rotation((5.0, 40.0, -9.0)) @ np.diag([1.0, 1.0, -1.0]),
}


EVERY_FORM = ("oblique", "mirrored")
"""Orientations that are crossed with every form; the others only with the common ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatCase:
    """A file and who opens it."""

    name: str
    suffix: str
    content: bytes
    itk_opens: bool = True
    medai_opens: bool = True
    why: str = ""
    said: str = ""
    beside: dict[str, bytes] = field(default_factory=dict)


def affine_ras(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """The affine of the table's spacing and origin."""
    affine = np.eye(4)
    affine[:3, :3] = directions * SPACING_MM
    affine[:3, 3] = ORIGIN_RAS_MM
    return affine


def nifti(
    *,
    qform: NDArray[np.float64] | None = None,
    sform: NDArray[np.float64] | None = None,
    codes: tuple[int, int] = (1, 1),
    before_voxels: bytes = b"\0" * 4,
    order: str = "<",
    **fields: Any,
) -> bytes:
    """A NIfTI-1 file of the table's voxels; ``codes`` are those of qform and sform, ``fields`` overwrite the header."""
    header: Any = nibabel.Nifti1Header(endianness=order)
    header.set_data_shape(SHAPE_IJK)
    header.set_data_dtype(np.int16)
    header["magic"], header["vox_offset"] = b"n+1", 348 + len(before_voxels)
    header["pixdim"][1:4] = SPACING_MM
    if qform is not None:
        header.set_qform(qform, 1)
        header["pixdim"][1:4] = SPACING_MM
    if sform is not None:
        header.set_sform(sform, 1)
    header["qform_code"], header["sform_code"] = codes
    for name, value in fields.items():
        if name == "pixdim":
            header["pixdim"][: len(value)] = value
        elif name == "dim":
            header["dim"][: len(value)] = value
        else:
            header[name] = value
    return bytes(header.binaryblock) + before_voxels + VOXELS.astype(f"{order}i2").tobytes(order="F")


def nrrd(*lines: str, sizes: str = "10 11 12", encoding: str = "raw", stored: bytes | None = None) -> bytes:
    """An NRRD file of the table's voxels with these header lines."""
    head = ["NRRD0005", "type: short", f"dimension: {len(sizes.split())}", f"sizes: {sizes}", "endian: little"]
    stored = VOXELS.tobytes(order="F") if stored is None else stored
    return ("\n".join([*head, f"encoding: {encoding}", *lines]) + "\n\n").encode() + stored


def meta(*lines: str, without: tuple[str, ...] = (), stored: bytes | None = None, **fields: str) -> bytes:
    """A MetaImage with the voxels inside (or beside, where ElementDataFile is given), these fields and these lines."""
    own = {
        "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False", "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "31.25 -44.5 -120.75",
        "ElementSpacing": "0.7 0.8 2.5", "DimSize": "10 11 12", "ElementType": "MET_SHORT",
    }  # fmt: skip
    data_file = fields.pop("ElementDataFile", "LOCAL")
    named = {name: value for name, value in (own | fields).items() if name not in without}
    text = "\n".join(
        [*(f"{name} = {value}" for name, value in named.items()), *lines, f"ElementDataFile = {data_file}"]
    )
    stored = VOXELS.tobytes(order="F") if stored is None else stored
    return (text + "\n").encode() + (stored if data_file == "LOCAL" else b"")


def _vector(values: NDArray[np.float64]) -> str:
    return "(" + ",".join(repr(float(v)) for v in values) + ")"


def nifti_cases() -> Iterator[FormatCase]:
    """Forms × orientations, and the odd values of single fields."""
    for name, directions in DIRECTIONS_RAS.items():
        affine = affine_ras(directions)
        apart = affine.copy()
        apart[:3, 3] += (5.0, -6.0, 7.0)
        turned = affine_ras(directions @ rotation((0.0, 0.0, 20.0)))
        unit = affine.copy()
        unit[:3, :3] = directions
        sheared = affine.copy()
        sheared[:3, :3] = directions @ np.array([[1, 0.003, 0], [0, 1, 0], [0, 0, 1]]) * SPACING_MM
        forms: dict[str, dict[str, Any]] = {
            "qform alone": {"qform": affine, "codes": (1, 0)},
            "sform alone": {"sform": affine, "codes": (0, 1)},
            "sform alone, code 4": {"sform": affine, "codes": (0, 4)},
            "both": {"qform": affine, "sform": affine},
            "apart, 1 and 1": {"qform": affine, "sform": apart},
            "apart, 1 and 2": {"qform": affine, "sform": apart, "codes": (1, 2)},
            "apart, 2 and 1": {"qform": affine, "sform": apart, "codes": (2, 1)},
            "apart, 2 and 2": {"qform": affine, "sform": apart, "codes": (2, 2)},
            "turned, 1 and 1": {"qform": affine, "sform": turned},
            "turned, 1 and 4": {"qform": affine, "sform": turned, "codes": (1, 4)},
            "unit sform": {"sform": unit, "codes": (0, 2)},
            "sheared sform, qform good": {"qform": affine, "sform": sheared},
            "neither": {"qform": affine, "sform": affine, "codes": (0, 0)},
        }
        for form, arguments in forms.items():
            if name in EVERY_FORM or form in ("qform alone", "both"):
                yield FormatCase(name=f"{form} ({name})", suffix=".nii", content=nifti(**arguments))
    yield from _nifti_fields()


def _nifti_fields() -> Iterator[FormatCase]:
    affine = affine_ras(DIRECTIONS_RAS["oblique"])
    both: dict[str, Any] = {"qform": affine, "sform": affine}
    metres = affine.copy()
    metres[:3] *= 0.001
    shear = affine.copy()
    shear[0, 1] += 5e-5
    odd: dict[str, dict[str, Any]] = {
        "vox_offset 352.7": {**both, "vox_offset": 352.7},
        "an extension": {**both, "before_voxels": b"\1\0\0\0" + b"\x20\0\0\0\6\0\0\0" + b"comment of 24 bytes.    "},
        "metres": {
            "sform": metres,
            "codes": (0, 1),
            "xyzt_units": 1,
            "pixdim": [1, *(s / 1000 for s in SPACING_MM)],
        },
        "an unknown unit": {**both, "xyzt_units": 5},
        "pixdim negative, sform": {**both, "pixdim": [1, -0.7, 0.8, 2.5]},
        "pixdim negative, qform": {"qform": affine, "codes": (1, 0), "pixdim": [1, -0.7, 0.8, 2.5]},
        "pixdim negative, neither": {"codes": (0, 0), "pixdim": [1, 0.7, -0.8, 2.5]},
        "pixdim not a number": {**both, "pixdim": [1, np.nan, 0.8, 2.5]},
        "pixdim zero": {"sform": affine, "codes": (0, 1), "pixdim": [1, 0.7, 0.0, 2.5]},
        "pixdim unlike the sform": {**both, "pixdim": [1, 0.5, 0.8, 3.0]},
        "qfac 0": {"qform": affine, "codes": (1, 0), "pixdim": [0]},
        "qfac not a number": {"qform": affine, "codes": (1, 0), "pixdim": [np.nan]},
        "quaternion longer than 1": {"codes": (1, 0), "quatern_b": 1.0, "quatern_c": 1.0, "quatern_d": 1.0},
        "sform not a number, qform good": {**both, "srow_x": [np.nan, 0, 0, 1]},
        "negative codes": {**both, "codes": (-3, -1)},
        "codes beyond the standard": {**both, "codes": (77, 99)},
        "big endian": {**both, "order": ">"},
        "shear of half the tolerance": {"sform": shear, "codes": (0, 1)},
        "one volume of four axes": {**both, "dim": [4, *SHAPE_IJK, 1]},
        "fourth axis of 0": {**both, "dim": [4, *SHAPE_IJK, 0]},
        "scl_slope 0": {**both, "scl_slope": 0, "scl_inter": 0},
        "intent of labels": {**both, "intent_code": 1002},
        "intent of vectors, one value": {**both, "intent_code": 1007},
    }
    for name, arguments in odd.items():
        yield FormatCase(name=name, suffix=".nii", content=nifti(**arguments))
    yield FormatCase(name="gzip", suffix=".nii.gz", content=gzip.compress(nifti(**both), 1))
    bare = nifti(**both)
    halves = gzip.compress(bare[:900]) + gzip.compress(bare[900:])
    yield FormatCase(name="gzip of two members", suffix=".nii.gz", content=halves)
    sheared = affine.copy()
    sheared[0, 1] += 3e-4
    refused: dict[str, tuple[dict[str, Any], str]] = {
        "sheared sform alone": ({"sform": sheared, "codes": (0, 1)}, "not at right angles"),
        "sform not a number": ({**both, "codes": (0, 1), "srow_x": [np.nan, 0, 0, 1]}, "not at right angles"),
        "two volumes": ({**both, "dim": [4, 10, 11, 6, 2]}, "has 4 axes"),
        "intent of vectors, two values": ({**both, "dim": [5, 10, 11, 6, 1, 2], "intent_code": 1007}, "has 5 axes"),
        "complex numbers": ({**both, "datatype": 32, "bitpix": 64, "dim": [3, 10, 11, 3]}, "complex numbers"),
    }
    for name, (arguments, said) in refused.items():
        content = nifti(**arguments)
        yield FormatCase(name=name, suffix=".nii", content=content, itk_opens=False, medai_opens=False, said=said)
    q_mirrored = nifti(qform=affine, sform=affine, codes=(1, 2), pixdim=[-1])
    for name, content, said, why in (
        ("mirrored forms", q_mirrored, "mirror images", "ITK's choice between such forms hangs on rounding"),
        ("scl_slope 0, intercept", nifti(**both, scl_slope=0, scl_inter=-5), "adds the intercept", "the standard's no"),
        ("marked as a pair", nifti(**both, magic=b"ni1"), "beside it", "the voxels are said to be elsewhere"),
        ("Analyze", nifti(**both, magic=b"\0\0\0\0"), "Analyze", "no orientation at all"),
        ("two axes", nifti(**both, dim=[2, 10, 11]), "has 2 axes", "a picture"),
    ):
        yield FormatCase(name=name, suffix=".nii", content=content, medai_opens=False, said=said, why=why)


def nrrd_cases() -> Iterator[FormatCase]:
    """Spaces × orientations, files without a space, encodings, and what nobody opens."""
    signs = {
        "left-posterior-superior": (-1, -1, 1), "RAS": (1, 1, 1), "left-anterior-superior": (-1, 1, 1),
        "scanner-xyz": (-1, -1, 1), "3D-right-handed": (-1, -1, 1), "3D-left-handed": (-1, -1, 1),
    }  # fmt: skip
    for name, directions in DIRECTIONS_RAS.items():
        for space, sign in signs.items():
            if name not in EVERY_FORM and space != "RAS":
                continue
            stored = affine_ras(directions)[:3] * np.array(sign)[:, None]
            lines = [f"space: {space}", *_directions(stored)]
            yield FormatCase(name=f"{space} ({name})", suffix=".nrrd", content=nrrd(*lines))
    lps = affine_ras(DIRECTIONS_RAS["oblique"])[:3] * np.array([[-1.0], [-1.0], [1.0]])
    directions, origin = _directions(lps)
    spacings, mins = "spacings: 0.7 0.8 2.5", "axis mins: 10 -20 30"
    space = "space: left-posterior-superior"
    lists = "kinds: list domain domain domain"
    without_first = directions.replace("directions:", "directions: none")
    forms: dict[str, list[str]] = {
        "unnamed space": ["space dimension: 3", directions, origin],
        "no origin": [space, directions],
        "origin not a number": [space, directions, "space origin: (nan,nan,nan)"],
        "space without directions": [space, origin],
        "measurement frame": [space, directions, origin, "measurement frame: (0,1,0) (1,0,0) (0,0,1)"],
        "space units": [space, directions, origin, 'space units: "cm" "cm" "cm"'],
        "other spellings": ["Space: LPS", directions.replace("space d", "Space D"), origin.replace("e o", "eo")],
        "kinds of unknown": [space, directions, origin, "kinds: ??? ??? ???"],
        "nothing stated": [],
        "spacings": [spacings],
        "spacings and thicknesses": [spacings, "thicknesses: 1 1 5"],
        "spacings, one negative": ["spacings: -0.7 0.8 2.5"],
        "spacings, one missing": ["spacings: 0.7 nan 2.5"],
        "minima": [spacings, mins],
        "minima in one word": [spacings, mins.replace("axis mins", "axismins")],
        "minima of nodes": [spacings, mins, "centers: node node node"],
        "minima of cells": [spacings, mins, "centerings: cell cell cell"],
        "minima of some nodes": [spacings, mins, "centers: node cell ???"],
        "minima and maxima": [spacings, mins, "axis maxs: 99 99 99"],
        "minima, one axis negative": ["spacings: -0.7 0.8 2.5", mins],
        "maxima alone": [spacings, "axis maxs: 17 8.8 30"],
        "minima without spacings": [mins],
    }
    for name, lines in forms.items():
        yield FormatCase(name=name, suffix=".nrrd", content=nrrd(*lines))
    for name, sizes, lines in (
        ("list of one, first", "1 10 11 12", [space, without_first, origin, lists]),
        ("list of one, last", "10 11 12 1", [space, f"{directions} none", origin, "kinds: domain domain domain list"]),
    ):
        yield FormatCase(name=name, suffix=".nrrd", content=nrrd(*lines, sizes=sizes))
    refused = (
        ("space and spacings", [space, spacings], "also 'spacings'"),
        ("space, directions and minima", [space, directions, mins], "also 'axis mins'"),
        ("directions without a space", [directions, origin], "directions"),
        ("part of an origin", [space, directions, "space origin: (1,nan,3)"], "space origin"),
        ("a space with time", ["space: RAST", directions, origin], "is in the space 'rast'"),
    )
    for name, lines, said in refused:
        content = nrrd(*lines)
        yield FormatCase(name=name, suffix=".nrrd", content=content, itk_opens=False, medai_opens=False, said=said)
    yield FormatCase(
        name="four axes in space of three",
        suffix=".nrrd",
        content=nrrd(space, f"{directions} none", origin, sizes="10 11 12 1"),
        itk_opens=False,
        medai_opens=False,
        said="has 4 axes",
    )
    for name, lines, said, why in (
        ("minima and maxima alone", [mins, "axis maxs: 17 -11.2 60"], "'spacings: 0.7 0.8 2.5'", "wrong sizes there"),
        ("no direction of one axis", [space, "space directions: (1,0,0) none (0,0,1)"], "no 'space dir", "a guess"),
        ("sheared", [space, "space directions: (1,0,0) (0.2,1,0) (0,0,1)"], "not at right angles", "no tilted grids"),
    ):
        yield FormatCase(name=name, suffix=".nrrd", content=nrrd(*lines), medai_opens=False, said=said, why=why)
    yield from _nrrd_encodings(spacings, mins)


def _directions(stored: NDArray[np.float64]) -> tuple[str, str]:
    rows = " ".join(_vector(stored[:, axis]) for axis in range(3))
    return f"space directions: {rows}", f"space origin: {_vector(stored[:, 3])}"


def _nrrd_encodings(spacings: str, mins: str) -> Iterator[FormatCase]:
    plain = VOXELS.tobytes(order="F")
    digits = plain.hex()
    written = " ".join(str(v) for v in VOXELS.ravel(order="F"))
    stored: dict[str, tuple[str, bytes, list[str]]] = {
        "gzip": ("gzip", gzip.compress(plain), []),
        "gzip, two members": ("gz", gzip.compress(plain[:100]) + gzip.compress(plain[100:]), []),
        "capitals": ("GZIP", gzip.compress(plain), []),
        "text": ("text", written.encode(), []),
        "ascii in lines": ("ascii", written.replace(" ", "\n").encode(), []),
        "hex": ("hex", digits.encode(), []),
        "hex in lines": ("hex", "\n".join(digits[n : n + 70] for n in range(0, len(digits), 70)).encode(), []),
        "line skip and byte skip": ("raw", b"a line\n1234" + plain, ["line skip: 1", "byte skip: 4"]),
        "byte skip, gzip": ("gzip", gzip.compress(b"1234" + plain), ["byte skip: 4"]),
        "line skip, gzip": ("gzip", b"a line\n" + gzip.compress(plain), ["line skip: 1"]),
        "byte skip -1": ("raw", b"something" + plain, ["byte skip: -1"]),
        "byte skip -1, gzip": ("gzip", gzip.compress(b"something" + plain), ["byteskip: -1"]),
    }
    for name, (encoding, content, lines) in stored.items():
        whole = nrrd(spacings, mins, *lines, encoding=encoding, stored=content)
        yield FormatCase(name=name, suffix=".nrrd", content=whole)
        if name not in ("gzip", "hex", "line skip and byte skip", "byte skip -1"):
            continue
        header = nrrd(spacings, mins, *lines, "data file: voxels.bin", encoding=encoding, stored=b"")
        yield FormatCase(name=f"{name}, detached", suffix=".nhdr", content=header, beside={"voxels.bin": content})


def meta_cases() -> Iterator[FormatCase]:
    """Orientations, synonyms, every form of compression, and what ITK misreads."""
    for name, directions in DIRECTIONS_RAS.items():
        lps = np.diag([-1.0, -1.0, 1.0]) @ directions
        matrix = " ".join(repr(float(v)) for v in lps.T.ravel())
        for keyword in ("TransformMatrix", "Orientation", "Rotation") if name == "oblique" else ("TransformMatrix",):
            content = meta(without=("TransformMatrix",) if keyword != "TransformMatrix" else (), **{keyword: matrix})
            yield FormatCase(name=f"{keyword} ({name})", suffix=".mha", content=content)
    packed = zlib.compress(VOXELS.tobytes(order="F"))
    big = VOXELS.astype(">i2").tobytes(order="F")
    forms: dict[str, bytes] = {
        "Position": meta(without=("Offset",), Position="4 5 6"),
        "Origin": meta(without=("Offset",), Origin="4 5 6"),
        "no Offset": meta(without=("Offset",)),
        "Offset and Origin": meta("Origin = 7 8 9"),
        "ElementSize": meta(without=("ElementSpacing",), ElementSize="0.7 0.8 2.5"),
        "ElementSize and ElementSpacing": meta("ElementSize = 1 1 5"),
        "no spacing": meta(without=("ElementSpacing",)),
        "negative spacing": meta(ElementSpacing="-0.7 0.8 2.5"),
        "matrix of length 2": meta(TransformMatrix="2 0 0 0 2 0 0 0 2"),
        "CenterOfRotation": meta("CenterOfRotation = 5 6 7", TransformMatrix="0 1 0 1 0 0 0 0 1"),
        "AnatomicalOrientation": meta("AnatomicalOrientation = RAS"),
        "DistanceUnits": meta("DistanceUnits = cm"),
        "BinaryDataByteOrderMSB": meta(BinaryDataByteOrderMSB="True", stored=big),
        "ElementByteOrderMSB": meta(without=("BinaryDataByteOrderMSB",), ElementByteOrderMSB="True", stored=big),
        "HeaderSize -1": meta("HeaderSize = -1", stored=b"something" + VOXELS.tobytes(order="F")),
        "ElementNumberOfChannels 1": meta("ElementNumberOfChannels = 1"),
        "no ObjectType": meta(without=("ObjectType",)),
        "a comment": meta("Comment = one = two"),
        "CompressedDataSize": meta(f"CompressedDataSize = {len(packed)}", CompressedData="True", stored=packed),
        "MET_LONG": meta(ElementType="MET_LONG", stored=VOXELS.astype("<i4").tobytes(order="F")),
        "MET_ULONG_LONG": meta(ElementType="MET_ULONG_LONG", stored=VOXELS.astype("<u8").tobytes(order="F")),
        "MET_DOUBLE": meta(ElementType="MET_DOUBLE", stored=VOXELS.astype("<f8").tobytes(order="F")),
    }
    for name, content in forms.items():
        yield FormatCase(name=name, suffix=".mha", content=content)
    forms_beside = {
        "raw beside": (meta(ElementDataFile="v.raw"), VOXELS.tobytes(order="F")),
        "HeaderSize 9 beside": (
            meta("HeaderSize = 9", ElementDataFile="v.raw"),
            b"something" + VOXELS.tobytes(order="F"),
        ),
        "zlib beside, no size": (meta(CompressedData="True", ElementDataFile="v.raw"), packed),
        "gzip beside, no size": (
            meta(CompressedData="True", ElementDataFile="v.raw"),
            gzip.compress(VOXELS.tobytes(order="F")),
        ),
    }
    for name, (content, beside) in forms_beside.items():
        yield FormatCase(name=name, suffix=".mhd", content=content, beside={"v.raw": beside})
    yield from _meta_refusals(packed)


def _meta_refusals(packed: bytes) -> Iterator[FormatCase]:
    text = " ".join(str(v) for v in VOXELS.ravel(order="F")).encode()
    for name, content, said in (
        ("BinaryData False", meta(BinaryData="False", stored=text), "as text"),
        ("MET_OTHER", meta(ElementType="MET_OTHER"), "type 'MET_OTHER'"),
        ("spacing 0", meta(ElementSpacing="0 0.8 2.5"), "no usable place"),
        ("two channels", meta("ElementNumberOfChannels = 2", DimSize="10 11 6"), "2 values a voxel"),
    ):
        yield FormatCase(name=name, suffix=".mha", content=content, itk_opens=False, medai_opens=False, said=said)
    deflate = zlib.compressobj(wbits=-15)
    bare = deflate.compress(VOXELS.tobytes(order="F")) + deflate.flush()
    for name, content, said, why in (
        ("bare deflate", meta(CompressedData="True", stored=bare), "neither zlib nor gzip", "ITK: noise"),
        ("HeaderSize, local", meta("HeaderSize = 9"), "HeaderSize = 9", "ITK counts from the file's first byte"),
        (
            "HeaderSize, compressed",
            meta("HeaderSize = -1", f"CompressedDataSize = {len(packed)}", CompressedData="True", stored=packed),
            "HeaderSize = -1 before compressed",
            "ITK: noise",
        ),
        ("a tube", meta(ObjectType="Tube"), "holds a 'Tube'", "no image"),
        ("an intensity function", meta("ElementToIntensityFunctionOffset = -1024"), "Hounsfield", "ITK ignores it"),
        ("several files", meta(ElementDataFile="LIST") + b"a.raw\nb.raw\n", "several files", "one file a scan"),
    ):
        opens = name not in ("HeaderSize, compressed", "several files")
        yield FormatCase(
            name=name, suffix=".mha", content=content, itk_opens=opens, medai_opens=False, said=said, why=why
        )


def misread_by_itk() -> Iterator[FormatCase]:
    """Good files that ITK and 3D Slicer read wrong, or do not open; medai reads them right."""
    both = affine_ras(DIRECTIONS_RAS["oblique"])
    for offset in (0, 348):
        content = nifti(qform=both, sform=both, vox_offset=offset)
        yield FormatCase(name=f"vox_offset {offset}", suffix=".nii", content=content)
    plain = VOXELS.tobytes(order="F")
    for name, packed in (("zlib", zlib.compress(plain)), ("gzip", gzip.compress(plain))):
        yield FormatCase(
            name=f"{name} inside, no CompressedDataSize",
            suffix=".mha",
            content=meta(CompressedData="True", stored=packed),
        )
        yield FormatCase(
            name=f"{name} inside, CompressedDataSize 20 short",
            suffix=".mha",
            content=meta(f"CompressedDataSize = {len(packed) - 20}", CompressedData="True", stored=packed),
        )
