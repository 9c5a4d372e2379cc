"""Left and right lung of a CT scan, found classically in about a second.

The mask is where nodules are looked for, so it is generous: vessels, nodules on the pleura and small consolidations are
closed into it; trachea and main bronchi are taken out. It is worked out on a copy of about 3 mm whose axes are
turned to the patient's right, front and head, so that oblique and flipped scans need no case of their own.

No network: on the scans this product meets (chest CT with or without contrast) thresholds and shape hold, and a
failure is visible to the caller as ``is_plausible = False`` instead of a confident wrong mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medai.domain import Volume
from medai.geometry import IndexBox, VolumeGeometry
from medai.preprocessing.reach import within_reach
from medai.preprocessing.resampling import coarse_geometry, resample_to_grid
from medai.preprocessing.turning import turn_to_ras

RIGHT_LUNG, LEFT_LUNG, UNKNOWN_SIDE = 1, 2, 3
WORKING_SPACING_MM = 3.0
AIR_BELOW_HU = -400.0
"""Between lung (about -850) and soft tissue (about 40)."""
ROOM_AIR_BELOW_HU = -950.0
"""Room air; a voxel of 3 mm of aerated lung is rarely below, only in emphysema."""
PLAUSIBLE_LUNG_ML = 400.0
"""Less than a child's single lung is taken for a scan without lungs …"""
PLAUSIBLE_LUNG_CM2 = 60.0
"""… unless the scan is a thin slab: there a mean cross-section of this is enough."""
SMOOTH_CLOSING_MM = 10.0
"""Closes vessels, hilar branches and small nodules on the pleura."""
COSTAL_CLOSING_MM = 30.0
"""Closes nodules to 30 mm that sit on the pleura, away from the mediastinum."""
MEDIASTINUM_MM = 50.0
"""Nearer than this to the other lung the wide closing is not applied: it would take in the heart and the hilum."""
AIRWAY_WALL_MM = 3.0
_SLICES_A_CHUNK = 16

_Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LungMask:
    """The lungs on a scan's grid.

    Attributes:
        geometry: the scan's own grid.
        labels: uint8 indexed [i, j, k]; 0 elsewhere, 1 right lung, 2 left lung, 3 lung of unknown side.
        is_plausible: True where at least a lung-sized region was found; False for crops and scans of other regions,
            whose mask is whatever looks aerated (value 3), possibly empty.
    """

    geometry: VolumeGeometry
    labels: NDArray[np.uint8]
    is_plausible: bool

    @property
    def volume_ml(self) -> dict[str, float]:
        """Volume of the right and the left lung in millilitres."""
        voxel_ml = self.geometry.voxel_volume_mm3 / 1000
        # Slice by slice: bincount turns what it is given into 64-bit integers, eight times the whole mask.
        counts = np.zeros(4, dtype=np.int64)
        for slice_ij in np.moveaxis(self.labels, 2, 0):
            counts += np.bincount(slice_ij.reshape(-1, order="A"), minlength=4)
        return {"right": float(counts[RIGHT_LUNG] * voxel_ml), "left": float(counts[LEFT_LUNG] * voxel_ml)}

    def side_at(self, point_ras_mm: ArrayLike, *, search_mm: float = 15.0) -> str:
        """The lung that a point lies in or next to.

        Args:
            point_ras_mm: shape (3,), RAS millimetres.
            search_mm: half edge of the box looked at; the lung with most voxels in it wins.

        Returns:
            "right", "left", or "" where neither is near.
        """
        centre = np.rint(self.geometry.ras_to_ijk(point_ras_mm)).astype(int)
        if self.geometry.contains(centre):
            here = int(self.labels[tuple(centre)])
            if here in (RIGHT_LUNG, LEFT_LUNG):
                return "right" if here == RIGHT_LUNG else "left"
        margin = np.ceil(search_mm / np.asarray(self.geometry.spacing_mm)).astype(int)
        point = IndexBox(start_ijk=tuple(centre.tolist()), stop_ijk=tuple((centre + 1).tolist()))
        near = point.expand(margin.tolist()).intersect(IndexBox.of_shape(self.geometry.shape_ijk))
        if near.is_empty:
            return ""
        counts = np.bincount(self.labels[near.slices].ravel(), minlength=4)
        if counts[RIGHT_LUNG] == counts[LEFT_LUNG]:
            return ""
        return "right" if counts[RIGHT_LUNG] > counts[LEFT_LUNG] else "left"


def lungs_on(lungs: LungMask, geometry: VolumeGeometry) -> NDArray[np.bool_]:
    """The lungs at the nearest voxel of another grid with the same axes."""
    first = lungs.geometry.ras_to_ijk(geometry.origin_ras_mm)
    steps = np.asarray(geometry.spacing_mm) / np.asarray(lungs.geometry.spacing_mm)
    index = [
        np.clip(np.rint(f + s * np.arange(n)).astype(int), 0, size - 1)
        for f, s, n, size in zip(first, steps, geometry.shape_ijk, lungs.geometry.shape_ijk, strict=True)
    ]
    # Slice by slice as they lie in memory: picked in any other order every voxel comes from a cache line of its own.
    order = sorted(range(3), key=lambda axis: -abs(lungs.labels.strides[axis]))
    slices, in_slice = lungs.labels.transpose(order), np.ix_(index[order[1]], index[order[2]])
    inside = np.empty([len(index[axis]) for axis in order], dtype=bool)
    for number, where in enumerate(index[order[0]]):
        np.greater(slices[where][in_slice], 0, out=inside[number])
    return inside.transpose(np.argsort(order))


def segment_lungs(volume: Volume) -> LungMask:
    """Find the left and the right lung.

    Args:
        volume: a CT scan of any orientation; a crop or a scan without lungs is allowed.

    Returns:
        The mask on the scan's grid; see ``LungMask.is_plausible``.
    """
    coarse = coarse_geometry(volume.geometry, WORKING_SPACING_MM)
    copy_hu = resample_to_grid(volume.image_hu, volume.geometry, coarse)
    turn = turn_to_ras(coarse)
    image_hu = turn.apply(copy_hu)
    spacing_mm = turn.spacing_mm
    air = _inside_air(image_hu)
    airway = _airway(image_hu, air, spacing_mm)
    labels = _two_lungs(air & ~airway, image_hu, spacing_mm)
    found_ml = float(np.count_nonzero(labels)) * float(np.prod(spacing_mm)) / 1000
    slab_ml = PLAUSIBLE_LUNG_CM2 * labels.shape[2] * spacing_mm[2] / 10
    is_plausible = found_ml >= min(PLAUSIBLE_LUNG_ML, slab_ml)
    if is_plausible:
        lungs = [_close_lung(labels, value, airway, spacing_mm) for value in (RIGHT_LUNG, LEFT_LUNG)]
    else:
        lungs = [_aerated(image_hu, air, spacing_mm)]
    values = (RIGHT_LUNG, LEFT_LUNG) if is_plausible else (UNKNOWN_SIDE,)
    result = np.zeros(volume.geometry.shape_ijk, dtype=np.uint8, order="F")
    for value, mask in zip(values, lungs, strict=True):
        _paint(result, turn.undo(mask), coarse, volume.geometry, value)
    return LungMask(geometry=volume.geometry, labels=result, is_plausible=is_plausible)


def _inside_air(image_hu: NDArray[np.float32]) -> _Mask:
    """Air that is not joined, within its axial slice, to the room around the patient.

    Slice by slice, because the lungs of a scan that ends inside the chest are open to its top and bottom. A region at
    the border of which little is as dark as room air is lung cut off by a small field of view and stays.
    """
    from scipy import ndimage

    air = image_hu < AIR_BELOW_HU
    in_plane = np.zeros((3, 3, 3), dtype=bool)
    in_plane[:, 1, 1] = in_plane[1, :, 1] = True
    labels, count = ndimage.label(air, structure=in_plane)
    border = np.unique(np.concatenate([labels[[0, -1]].ravel(), labels[:, [0, -1]].ravel()]))
    border = border[border > 0]
    if border.size == 0:
        return air
    dark = np.bincount(labels[image_hu < ROOM_AIR_BELOW_HU], minlength=count + 1)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    room = np.zeros(count + 1, dtype=bool)
    room[border[dark[border] > 0.2 * sizes[border]]] = True
    return np.asarray(air & ~room[labels])


def _inside_body(image_hu: NDArray[np.float32]) -> _Mask:
    """Where the body lies on at least three of the four sides within the axial slice.

    Tells lungs from air between table, blankets, arms and chin.
    """
    from scipy import ndimage

    soft = ndimage.binary_opening(image_hu > -250, iterations=2)  # without the thin shell of a table
    labels, count = ndimage.label(soft)
    if count == 0:
        return np.ones(image_hu.shape, dtype=bool)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    body = labels == int(np.argmax(sizes))
    sides = np.zeros(body.shape, dtype=np.uint8)
    for axis in (0, 1):
        sides += np.logical_or.accumulate(body, axis=axis)
        sides += np.flip(np.logical_or.accumulate(np.flip(body, axis), axis=axis), axis)
    return sides >= 3


def _airway(image_hu: NDArray[np.float32], air: _Mask, spacing_mm: tuple[float, float, float]) -> _Mask:
    """Trachea and main bronchi with their walls; empty where no trachea is seen.

    A tube of pure air between the lungs near the top is grown through ever denser air until it would leak into the
    lungs: the last growth that is still airway-sized is taken.
    """
    from scipy import ndimage

    nothing = np.zeros_like(air)
    seed = _trachea_seed(image_hu, air, spacing_mm)
    if seed is None:
        return nothing
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    best = nothing
    size_ml = 0.0
    for limit_hu in range(-980, -840, 10):
        labels, _ = ndimage.label(air & (image_hu < limit_hu))
        value = labels[seed]
        if value == 0:
            continue
        grown = labels == value
        grown_ml = float(grown.sum()) * voxel_ml
        if grown_ml > 110.0 or (size_ml > 15.0 and grown_ml > size_ml + 25.0):
            break  # an adult's trachea and main bronchi hold 30–80 ml: this has leaked into the lungs
        best, size_ml = grown, grown_ml
    box = IndexBox.of_mask(best)
    if box is None:
        return nothing
    near = box.expand([int(np.ceil(AIRWAY_WALL_MM / s)) for s in spacing_mm]).clip(best.shape).slices
    nothing[near] = within_reach(best[near], AIRWAY_WALL_MM, spacing_mm)
    return nothing


def _trachea_seed(
    image_hu: NDArray[np.float32], air: _Mask, spacing_mm: tuple[float, float, float]
) -> tuple[int, int, int] | None:
    """The darkest voxel of a round air hole of trachea size, in the middle third, in the upper half of the scan."""
    from scipy import ndimage

    voxel_mm2 = spacing_mm[0] * spacing_mm[1]
    lung_area_mm2 = air.sum(axis=(0, 1)) * voxel_mm2
    if not lung_area_mm2.any():
        return None
    columns = np.flatnonzero(air.any(axis=(1, 2)))
    middle = (columns[0] + columns[-1]) / 2
    reach = max(25.0 / spacing_mm[0], 0.15 * (columns[-1] - columns[0]))
    votes: list[tuple[float, tuple[int, int, int]]] = []
    for k in range(air.shape[2] - 1, air.shape[2] // 2 - 1, -1):
        labels, count = ndimage.label(air[:, :, k])
        for number, where in enumerate(ndimage.find_objects(labels), start=1):
            hole = labels[where] == number
            area_mm2 = float(hole.sum()) * voxel_mm2
            width, height = (n * s for n, s in zip(hole.shape, spacing_mm, strict=False))
            centre = (where[0].start + where[0].stop - 1) / 2
            is_round = 0.5 < width / height < 2.0 and area_mm2 > 0.5 * width * height
            if 70 < area_mm2 < 700 and is_round and abs(centre - middle) < reach:
                dark = np.where(hole, image_hu[(*where, k)], np.inf)
                place = np.unravel_index(int(np.argmin(dark)), dark.shape)
                index = (where[0].start + int(place[0]), where[1].start + int(place[1]), k)
                votes.append((float(dark.min()), index))
        if len(votes) >= 8 or (count == 0 and votes):
            break
    if not votes:
        return None
    return min(votes)[1]


def _two_lungs(air: _Mask, image_hu: NDArray[np.float32], spacing_mm: tuple[float, float, float]) -> NDArray[np.uint8]:
    """Label the lung-like air regions 1 (right) and 2 (left)."""
    from scipy import ndimage

    voxel_ml = float(np.prod(spacing_mm)) / 1000
    labels, count = ndimage.label(air)
    result = np.zeros(air.shape, dtype=np.uint8)
    if count == 0:
        return result
    sizes_ml = np.bincount(labels.ravel(), minlength=count + 1) * voxel_ml
    sizes_ml[0] = 0
    means = np.bincount(labels.ravel(), weights=image_hu.ravel(), minlength=count + 1) * voxel_ml
    means = means / np.maximum(sizes_ml, voxel_ml)
    # Bowel and stomach gas is as dark as room air; lungs are not, even emphysematous ones of this size.
    enclosed_ml = np.bincount(labels[_inside_body(image_hu)], minlength=count + 1) * voxel_ml
    lung_like = (sizes_ml > 20) & ((means > -960) | (sizes_ml > 1500)) & (enclosed_ml > 0.7 * sizes_ml)
    lung_like &= sizes_ml > 0.03 * sizes_ml[lung_like].max(initial=0)
    if not lung_like.any():
        return result
    largest = int(np.argmax(np.where(lung_like, sizes_ml, 0)))
    lungs = lung_like[labels] & (labels > 0)
    others_ml = float(sizes_ml[lung_like].sum() - sizes_ml[largest])
    middle = _middle_column(lungs)
    if others_ml < 0.25 * sizes_ml[largest]:
        split = _split_joined(labels == largest, spacing_mm)
        if split is not None:
            labels = np.where(labels == largest, split + count, labels)
            count += 2
    columns = np.arange(air.shape[0], dtype=np.float64)
    for value in np.unique(labels[lungs]):
        part = labels == value
        weight = part.sum(axis=(1, 2))
        column = float((columns * weight).sum() / weight.sum())
        # The first axis runs from the patient's left to the right.
        result[part] = RIGHT_LUNG if column > middle else LEFT_LUNG
    return result


def _middle_column(lungs: _Mask) -> float:
    """The column between the lungs: half way between the outer edges."""
    columns = np.flatnonzero(lungs.any(axis=(1, 2)))
    return float(columns[0] + columns[-1]) / 2


def _split_joined(joined: _Mask, spacing_mm: tuple[float, float, float]) -> NDArray[np.int64] | None:
    """Part lungs that touch in front of or behind the heart: 1 and 2, or None where it is a single lung."""
    from scipy import ndimage

    box = IndexBox.of_mask(joined)
    if box is None:
        return None
    where = box.expand((1, 1, 1)).clip(joined.shape).slices
    lung = joined[where]
    total = float(lung.sum())
    for cut_mm in (2.6, 4, 5.5, 7, 9, 11, 13, 16):
        cores, count = ndimage.label(~within_reach(~lung, cut_mm, spacing_mm))
        if count < 2:
            continue
        sizes = np.bincount(cores.ravel(), minlength=count + 1)
        sizes[0] = 0
        first, second = (int(n) for n in np.argsort(sizes)[::-1][:2])
        if sizes[second] < 0.25 * sizes[first] or sizes[second] < 0.04 * total:
            continue
        seeds = np.where(cores == first, 1, np.where(cores == second, 2, 0))
        nearest = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
        parts = np.zeros(joined.shape, dtype=np.int64)
        parts[where] = np.where(lung, seeds[tuple(nearest)], 0)
        return parts
    return None


def _close_lung(labels: NDArray[np.uint8], value: int, airway: _Mask, spacing_mm: tuple[float, float, float]) -> _Mask:
    """One lung with its vessels, holes and nodules on the pleura, without the other lung and the airway."""
    lung: _Mask = np.asarray(labels == value)
    box = IndexBox.of_mask(lung)
    if box is None:
        return lung
    margin = [int(np.ceil((COSTAL_CLOSING_MM + 2) / s)) for s in spacing_mm]
    work = np.pad(lung[box.slices], [(m, m) for m in margin])
    around = box.expand(margin)
    inside = around.clip(lung.shape)
    crop = tuple(
        slice(a - o, b - o) for a, b, o in zip(inside.start_ijk, inside.stop_ijk, around.start_ijk, strict=True)
    )
    smooth = _closed(work, SMOOTH_CLOSING_MM, spacing_mm)
    wide = _closed(smooth, COSTAL_CLOSING_MM, spacing_mm)
    other = np.zeros_like(work)
    other[crop] = (labels > 0)[inside.slices] & (labels != value)[inside.slices]
    if other.any():
        wide &= ~within_reach(other, MEDIASTINUM_MM, spacing_mm)
    else:
        wide = smooth
    closed = np.zeros_like(lung)
    closed[inside.slices] = (smooth | wide)[crop]
    closed &= (labels == 0) | lung
    closed &= ~airway
    return np.asarray(closed | lung)


def _closed(mask: _Mask, radius_mm: float, spacing_mm: tuple[float, float, float]) -> _Mask:
    """Closing with a ball; the array must have a margin of the radius."""
    grown = within_reach(mask, radius_mm, spacing_mm)
    return ~within_reach(~grown, radius_mm, spacing_mm) | mask


def _aerated(image_hu: NDArray[np.float32], air: _Mask, spacing_mm: tuple[float, float, float]) -> _Mask:
    """Whatever looks like lung tissue in a scan without recognisable lungs, closed."""
    tissue = air & (image_hu > -970)
    margin = [int(np.ceil((SMOOTH_CLOSING_MM + 2) / s)) for s in spacing_mm]
    padded = np.pad(tissue, [(m, m) for m in margin], mode="edge")
    closed = _closed(padded, SMOOTH_CLOSING_MM, spacing_mm)
    return np.asarray(closed[tuple(slice(m, n - m) for m, n in zip(margin, closed.shape, strict=True))])


def _paint(labels: NDArray[np.uint8], mask: _Mask, coarse: VolumeGeometry, fine: VolumeGeometry, value: int) -> None:
    """Write a coarse mask into the scan's labels with a smooth boundary."""
    from scipy import ndimage

    box = IndexBox.of_mask(mask)
    if box is None:
        return
    box = box.expand((2, 2, 2)).clip(mask.shape)
    soft = ndimage.gaussian_filter(mask[box.slices].astype(np.float32), 0.6, mode="nearest")
    soft = soft.copy(order="F")  # in memory as the labels are
    region = coarse.crop(box)
    corners = fine.ras_to_ijk(coarse.ijk_to_ras(np.array([box.start_ijk, box.stop_ijk]) - 0.5))
    start = np.floor(np.maximum(corners[0] + 0.5, 0)).astype(int)
    stop = np.minimum(np.ceil(corners[1] + 0.5).astype(int), fine.shape_ijk)
    where = IndexBox(start_ijk=tuple(start.tolist()), stop_ijk=tuple(stop.tolist()))
    # Some slices at a time: the soft mask of a whole lung on the scan's grid is 70 MB that no cache holds.
    for begin in range(where.start_ijk[2], where.stop_ijk[2], _SLICES_A_CHUNK):
        some = where.intersect(
            IndexBox(start_ijk=(*where.start_ijk[:2], begin), stop_ijk=(*where.stop_ijk[:2], begin + _SLICES_A_CHUNK))
        )
        target = labels[some.slices]
        inside = resample_to_grid(soft, region, fine.crop(some)) > 0.5
        np.copyto(target, np.uint8(value), where=inside & (target == 0))
