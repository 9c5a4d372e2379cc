"""Axis-aligned boxes of voxels: half-open, in index space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medai.errors import GeometryError


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexBox:
    """A half-open box of voxels: ``start_ijk`` is inside, ``stop_ijk`` is one past the end on each axis.

    A box may reach outside a volume; ``clip`` brings it back in.
    """

    start_ijk: tuple[int, int, int]
    stop_ijk: tuple[int, int, int]

    def __post_init__(self) -> None:
        if any(stop < start for start, stop in zip(self.start_ijk, self.stop_ijk, strict=True)):
            raise GeometryError(f"A box ends before it starts: {self.start_ijk} to {self.stop_ijk}.")

    @classmethod
    def of_shape(cls, shape_ijk: Sequence[int]) -> IndexBox:
        """The box of a whole volume."""
        i, j, k = (int(n) for n in shape_ijk)
        return cls(start_ijk=(0, 0, 0), stop_ijk=(i, j, k))

    @classmethod
    def around(cls, centre_ijk: Sequence[int], shape_ijk: Sequence[int]) -> IndexBox:
        """The box of ``shape_ijk`` voxels whose middle voxel (rounded down) is ``centre_ijk``."""
        start = [int(c) - int(n) // 2 for c, n in zip(centre_ijk, shape_ijk, strict=True)]
        stop = [s + int(n) for s, n in zip(start, shape_ijk, strict=True)]
        return cls(start_ijk=(start[0], start[1], start[2]), stop_ijk=(stop[0], stop[1], stop[2]))

    @classmethod
    def of_mask(cls, mask: NDArray[np.generic]) -> IndexBox | None:
        """The smallest box that holds every non-zero voxel, or None for an empty mask."""
        bounds: list[tuple[int, int]] = []
        for axis in range(3):
            others = tuple(a for a in range(3) if a != axis)
            hits = np.flatnonzero(np.any(mask, axis=others))
            if hits.size == 0:
                return None
            bounds.append((int(hits[0]), int(hits[-1]) + 1))
        (i0, i1), (j0, j1), (k0, k1) = bounds
        return cls(start_ijk=(i0, j0, k0), stop_ijk=(i1, j1, k1))

    @property
    def shape_ijk(self) -> tuple[int, int, int]:
        """Number of voxels along each axis."""
        i, j, k = (b - a for a, b in zip(self.start_ijk, self.stop_ijk, strict=True))
        return (i, j, k)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index expression into an array of the whole volume; the box must not start below zero."""
        if min(self.start_ijk) < 0:
            raise GeometryError(f"A box that starts at {self.start_ijk} cannot index an array: clip it first.")
        i, j, k = (slice(a, b) for a, b in zip(self.start_ijk, self.stop_ijk, strict=True))
        return (i, j, k)

    @property
    def is_empty(self) -> bool:
        """True where the box holds no voxel."""
        return 0 in self.shape_ijk

    def contains(self, index_ijk: ArrayLike) -> bool:
        """True where the voxel lies inside the box."""
        index = np.asarray(index_ijk)
        return bool(np.all(index >= self.start_ijk) and np.all(index < self.stop_ijk))

    def clip(self, shape_ijk: Sequence[int]) -> IndexBox:
        """The part of the box inside a volume of ``shape_ijk``; empty where they do not meet."""
        return self.intersect(IndexBox.of_shape(shape_ijk))

    def intersect(self, other: IndexBox) -> IndexBox:
        """The voxels both boxes hold; empty where they do not meet."""
        start = [max(a, b) for a, b in zip(self.start_ijk, other.start_ijk, strict=True)]
        stop = [max(s, min(a, b)) for s, a, b in zip(start, self.stop_ijk, other.stop_ijk, strict=True)]
        return IndexBox(start_ijk=(start[0], start[1], start[2]), stop_ijk=(stop[0], stop[1], stop[2]))

    def expand(self, margin_ijk: Sequence[int]) -> IndexBox:
        """The box grown by ``margin_ijk`` voxels on both sides of each axis (not clipped)."""
        start = [a - int(m) for a, m in zip(self.start_ijk, margin_ijk, strict=True)]
        stop = [b + int(m) for b, m in zip(self.stop_ijk, margin_ijk, strict=True)]
        return IndexBox(start_ijk=(start[0], start[1], start[2]), stop_ijk=(stop[0], stop[1], stop[2]))

    def union(self, other: IndexBox) -> IndexBox:
        """The smallest box that holds both."""
        start = [min(a, b) for a, b in zip(self.start_ijk, other.start_ijk, strict=True)]
        stop = [max(a, b) for a, b in zip(self.stop_ijk, other.stop_ijk, strict=True)]
        return IndexBox(start_ijk=(start[0], start[1], start[2]), stop_ijk=(stop[0], stop[1], stop[2]))

    def shift(self, offset_ijk: Sequence[int]) -> IndexBox:
        """The box moved by ``offset_ijk`` voxels."""
        start = [a + int(o) for a, o in zip(self.start_ijk, offset_ijk, strict=True)]
        stop = [b + int(o) for b, o in zip(self.stop_ijk, offset_ijk, strict=True)]
        return IndexBox(start_ijk=(start[0], start[1], start[2]), stop_ijk=(stop[0], stop[1], stop[2]))
