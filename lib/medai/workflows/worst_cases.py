"""Small pictures of the cases a model does worst on, for its card: three planes each, truth and answer outlined.

They travel in the package, so that they are drawn pixel by pixel at the size they are shown at and written with few
grey levels: some twenty kilobytes each.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medai.domain import Volume
from medai.errors import GeometryError, InputError
from medai.geometry import IndexBox
from medai.registry.cards import LARGEST_MONTAGE_BYTES, LARGEST_PICTURE_BYTES, WORST_CASES
from medai.volume_io.atomic import atomic_path
from medai.workflows.pictures import LUNG_WINDOW_HU, turned_slice

if TYPE_CHECKING:
    from PIL.Image import Image

TRUTH_RGB = (0, 190, 255)
ANSWER_RGB = (255, 150, 0)
"""Blue and orange: apart for every common kind of colour blindness."""

PICTURES_FOLDER = "pictures"
MONTAGE = f"{PICTURES_FOLDER}/worst.png"
LEGEND = "blue: readers, orange: model"
_TILE = 192
_CAPTION = 15
_GAP = 4
_COLUMNS = 2
_LEAST_FIELD_MM = 26.0
_FIELD_DIAMETERS = 1.8
_GREYS = (48, 32, 24, 16, 12, 8)
_CHARACTERS = 96
"""What fits into a caption."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WorstCase:
    """A case to draw.

    Attributes:
        case_id: by its public id.
        words: what went wrong, with the figures, in a few words.
        volume: the scan, or the part of it around the nodule.
        centre_ijk: the voxel in the middle of each plane; None: the middle of the truth.
        truth: what should have been answered, bool on the volume's grid.
        answer: what was answered; None where nothing was.
    """

    case_id: str
    words: str
    volume: Volume
    truth: NDArray[np.bool_]
    answer: NDArray[np.bool_] | None = None
    centre_ijk: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        for mask in (self.truth, self.answer):
            if mask is not None and mask.shape != self.volume.geometry.shape_ijk:
                raise GeometryError(
                    f"Case {self.case_id}: a mask of shape {mask.shape} on a scan of {self.volume.geometry.shape_ijk}."
                )
        if self.centre_ijk is None and not self.truth.any():
            raise InputError(f"Case {self.case_id} has an empty mask and no centre: there is no place to draw.")


def draw_worst_cases(cases: Sequence[WorstCase], card_folder: Path) -> dict[str, Any]:
    """Draw cases for a card, one picture each and all in one; former pictures there are removed.

    Args:
        cases: the worst first, at most ``WORST_CASES``.
        card_folder: the card's folder; pictures go to ``pictures/`` in it.

    Returns:
        ``montage`` and ``cases`` of the card's ``known_failures``.

    Raises:
        InputError: no case, or too many.
    """
    if not 0 < len(cases) <= WORST_CASES:
        raise InputError(f"A card shows 1 to {WORST_CASES} of the worst cases, not {len(cases)}.")
    folder = card_folder / PICTURES_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for former in folder.glob("worst*.png"):
        former.unlink()
    strips = [_strip(case) for case in cases]
    shown = []
    for number, (case, strip) in enumerate(zip(cases, strips, strict=True), start=1):
        name = f"{PICTURES_FOLDER}/worst_{number:02}.png"
        _write(_captioned(strip, f"{number}. {case.case_id}: {case.words}"), card_folder / name, LARGEST_PICTURE_BYTES)
        shown.append({"case_id": case.case_id, "words": case.words, "picture": name})
    captioned = [
        _captioned(strip, f"{number}. {case.case_id}: {case.words}")
        for number, (case, strip) in enumerate(zip(cases, strips, strict=True), start=1)
    ]
    _write(_montage(captioned), card_folder / MONTAGE, LARGEST_MONTAGE_BYTES)
    return {"montage": MONTAGE, "legend": LEGEND, "cases": shown}


def _strip(case: WorstCase) -> NDArray[np.uint8]:
    """Axial, coronal and sagittal beside each other, rgb."""
    geometry = case.volume.geometry
    box = IndexBox.of_mask(case.truth)
    extent_mm = 0.0
    if box is not None:
        extent_mm = max(n * s for n, s in zip(box.shape_ijk, geometry.spacing_mm, strict=True))
    centre = case.centre_ijk or _middle(case.truth)
    field_mm = max(_LEAST_FIELD_MM, _FIELD_DIAMETERS * extent_mm)
    tiles = [_tile(case, axis, centre, field_mm) for axis in (2, 1, 0)]
    gap = np.full((_TILE, _GAP, 3), 0, np.uint8)
    return np.concatenate([tiles[0], gap, tiles[1], gap, tiles[2]], axis=1)


def _middle(mask: NDArray[np.bool_]) -> tuple[int, int, int]:
    """The voxel of a mask that is nearest to its centroid."""
    voxels = np.argwhere(mask)
    nearest = voxels[np.argmin(np.linalg.norm(voxels - voxels.mean(axis=0), axis=1))]
    return (int(nearest[0]), int(nearest[1]), int(nearest[2]))


def _tile(case: WorstCase, axis: int, centre: tuple[int, int, int], field_mm: float) -> NDArray[np.uint8]:
    """One plane around the centre, as a workstation shows it; black where the scan ends."""
    at = [slice(None)] * 3
    at[axis] = slice(centre[axis], centre[axis] + 1)
    geometry = case.volume.geometry
    image, spacing = turned_slice(np.asarray(case.volume.image_hu[tuple(at)]), geometry, axis)
    place = np.zeros(geometry.shape_ijk, dtype=bool)
    place[centre] = True
    row, column = np.argwhere(turned_slice(place[tuple(at)], geometry, axis)[0])[0]
    pixel_mm = field_mm / _TILE
    offsets = (np.arange(_TILE) - (_TILE - 1) / 2) * pixel_mm
    rows, columns = np.meshgrid(row + offsets / spacing[0], column + offsets / spacing[1], indexing="ij")

    def sampled(plane: NDArray[np.generic], outside: float) -> NDArray[np.float32]:
        from scipy import ndimage

        values = ndimage.map_coordinates(
            np.asarray(plane, np.float32), [rows, columns], order=1, mode="constant", cval=outside
        )
        return np.asarray(values, np.float32)

    low, high = LUNG_WINDOW_HU
    grey = np.clip((sampled(image, low) - low) / (high - low), 0, 1) * 255
    tile = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    for mask, colour in ((case.truth, TRUTH_RGB), (case.answer, ANSWER_RGB)):
        if mask is not None:
            plane, _ = turned_slice(np.asarray(mask[tuple(at)]), geometry, axis)
            tile[_edge(sampled(plane, 0.0) > 0.5)] = colour
    return tile


def _edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The outermost pixels of a mask."""
    from scipy import ndimage

    return np.asarray(mask & ~ndimage.binary_erosion(mask, border_value=1), dtype=bool)


def _captioned(strip: NDArray[np.uint8], words: str) -> NDArray[np.uint8]:
    """The strip with its words below."""
    from PIL import Image, ImageDraw, ImageFont

    canvas = Image.new("RGB", (strip.shape[1], strip.shape[0] + _CAPTION))
    canvas.paste(Image.fromarray(strip), (0, 0))
    text = words if len(words) <= _CHARACTERS else words[: _CHARACTERS - 1] + "…"
    font = ImageFont.load_default(size=11)
    ImageDraw.Draw(canvas).text((2, strip.shape[0] + 1), text, fill=(235, 235, 235), font=font)
    return np.asarray(canvas)


def _montage(strips: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The strips in columns, read down first."""
    height, width, _ = strips[0].shape
    rows = -(-len(strips) // _COLUMNS)
    columns = min(_COLUMNS, len(strips))
    canvas = np.zeros((rows * (height + _GAP), columns * (width + _GAP), 3), np.uint8)
    for number, strip in enumerate(strips):
        top, left = (number % rows) * (height + _GAP), (number // rows) * (width + _GAP)
        canvas[top : top + height, left : left + width] = strip
    return canvas


def _write(picture: NDArray[np.uint8], path: Path, largest_bytes: int) -> None:
    """Write a PNG with as many grey levels as fit."""
    from PIL import Image

    for greys in _GREYS:
        packed = _packed(Image.fromarray(picture), greys)
        if len(packed) <= largest_bytes:
            break
    with atomic_path(path) as temporary:
        temporary.write_bytes(packed)


def _packed(picture: Image, greys: int) -> bytes:
    """A PNG of a palette: so many greys and the two colours."""
    from PIL import Image

    palette = [level for n in range(greys) for level in (round(255 * n / (greys - 1)),) * 3]
    palette += [*TRUTH_RGB, *ANSWER_RGB]
    key = Image.new("P", (1, 1))
    key.putpalette(palette + palette[-3:] * (256 - len(palette) // 3))
    stream = io.BytesIO()
    picture.quantize(palette=key, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
    return stream.getvalue()
