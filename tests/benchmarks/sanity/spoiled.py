"""Ways to spoil a label of a whole scan, for ``tests.benchmarks.sanity``; all chance comes from the generator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.domain import LabelMap, Segment
from medai.geometry import IndexBox, VolumeGeometry

LEAST_SHIFT_MM = 3.0
SPECKS = (20, 200)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outline:
    """A mask somewhere in a scan."""

    start_ijk: tuple[int, int, int]
    mask: NDArray[np.bool_]

    @classmethod
    def of(cls, box: IndexBox, mask: NDArray[np.bool_]) -> Outline:
        """The mask cut to what is labelled in it."""
        tight = IndexBox.of_mask(mask)
        if tight is None:
            raise ValueError("the outline is empty")
        return cls(start_ijk=tight.shift(box.start_ijk).start_ijk, mask=np.ascontiguousarray(mask[tight.slices]))

    def draw(self, labels: NDArray[np.uint8]) -> bool:
        """Draw it; False where nothing of it lies in the scan."""
        stop = tuple(a + n for a, n in zip(self.start_ijk, self.mask.shape, strict=True))
        box = IndexBox(start_ijk=self.start_ijk, stop_ijk=stop)
        inside = box.clip(labels.shape)
        if inside.is_empty:
            return False
        own = self.mask[inside.shift([-n for n in self.start_ijk]).slices]
        labels[inside.slices][own] = 1
        return bool(own.any())


def diameter_mm(outline: Outline, geometry: VolumeGeometry) -> float:
    """Of the ball of the same volume."""
    return float((6 * np.count_nonzero(outline.mask) * geometry.voxel_volume_mm3 / np.pi) ** (1 / 3))


def shifted(outline: Outline, geometry: VolumeGeometry, rng: np.random.Generator, times: float) -> Outline:
    """Moved by ``times`` the larger of 3 mm and half the diameter, or a little more, in any direction."""
    spacing_mm = np.asarray(geometry.spacing_mm)
    least_mm = times * max(LEAST_SHIFT_MM, diameter_mm(outline, geometry) / 2)
    direction = rng.standard_normal(3)
    direction /= np.linalg.norm(direction)
    way_mm = least_mm
    while True:
        steps = np.rint(direction * way_mm / spacing_mm).astype(int)
        if float(np.linalg.norm(steps * spacing_mm)) >= least_mm:
            break
        way_mm *= 1.02
    start = np.asarray(outline.start_ijk) + steps
    return Outline(start_ijk=(int(start[0]), int(start[1]), int(start[2])), mask=outline.mask)


def mirrored(outline: Outline, geometry: VolumeGeometry, axis: int) -> Outline:
    """The label array flipped along an axis: 0 is left and right, 2 head and feet in an axial scan."""
    start = list(outline.start_ijk)
    start[axis] = geometry.shape_ijk[axis] - start[axis] - outline.mask.shape[axis]
    return Outline(start_ijk=(start[0], start[1], start[2]), mask=np.flip(outline.mask, axis))


def of_another_scan(outline: Outline, own: VolumeGeometry, other: VolumeGeometry) -> Outline:
    """The label as it lies in its own scan, put on the grid of another one."""
    start = [
        round(a * new / old) for a, new, old in zip(outline.start_ijk, other.shape_ijk, own.shape_ijk, strict=True)
    ]
    return Outline(start_ijk=(start[0], start[1], start[2]), mask=outline.mask)


def strewn_over_scan(labels: NDArray[np.uint8], rng: np.random.Generator) -> None:
    """Specks of up to five voxels a side anywhere in the scan, as many as chance wills."""
    for _ in range(int(rng.integers(*SPECKS))):
        size = rng.integers(1, 6, 3)
        start = [int(rng.integers(0, n - s)) for n, s in zip(labels.shape, size, strict=True)]
        labels[tuple(slice(a, a + int(s)) for a, s in zip(start, size, strict=True))] = 1


def strewn_over_box(outline: Outline, rng: np.random.Generator) -> Outline:
    """The outline's voxels shuffled in a box of twice its size."""
    extent = [2 * n for n in outline.mask.shape]
    voxels = np.zeros(int(np.prod(extent)), dtype=bool)
    voxels[: np.count_nonzero(outline.mask)] = True
    start = [a - n // 2 for a, n in zip(outline.start_ijk, outline.mask.shape, strict=True)]
    return Outline(start_ijk=(start[0], start[1], start[2]), mask=rng.permutation(voxels).reshape(extent))


def inverted_in_box(outline: Outline) -> Outline:
    """Everything but the nodule in a box around it, half its size wider on each side."""
    margin = [max(2, n // 2) for n in outline.mask.shape]
    start = [a - n for a, n in zip(outline.start_ijk, margin, strict=True)]
    around = ~np.pad(outline.mask, [(n, n) for n in margin])
    return Outline(start_ijk=(start[0], start[1], start[2]), mask=around)


def strips(outline: Outline, geometry: VolumeGeometry) -> Iterator[Outline]:
    """Its single slices, drawn one alone: the middle one."""
    k = int(np.argmax(outline.mask.sum(axis=(0, 1))))
    flat = np.zeros_like(outline.mask)
    flat[..., k] = outline.mask[..., k]
    stop = tuple(a + n for a, n in zip(outline.start_ijk, outline.mask.shape, strict=True))
    yield Outline.of(IndexBox(start_ijk=outline.start_ijk, stop_ijk=stop), flat)


def label_map(labels: NDArray[np.uint8], geometry: VolumeGeometry) -> LabelMap:
    """A label of one segment."""
    return LabelMap(geometry=geometry, labels=labels, segments=(Segment(value=1, name="nodule 1"),))
