"""What a nodule finder mistakes for nodules: scars, atelectasis, plaques, bony spurs, thick fissures, plugged bronchi.

Each is a body with the trait that tells it from a nodule: flat, linear, branching, broad-based or as dense as bone.
They are painted before blur and noise, as nodules are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.geometry import IndexBox, VolumeGeometry
from medai.phantom.fields import Float, SineField, coverage
from medai.phantom.grid import CoarseFields
from medai.phantom.trees import Pieces

Vector = NDArray[np.float64]

_CLEAR_MM = 6.0
"""Between a nodule and a benign finding."""
_STRAND = np.array([0.9, 0.75, 0.5, 0.2])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BenignBody:
    """One body, on the grid the phantom is painted on.

    Attributes:
        box: in the painting grid.
        fraction: share of each voxel that it fills, float32.
        attenuation_hu: of the body.
    """

    box: IndexBox
    fraction: Float
    attenuation_hu: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BenignFindings:
    """All of one chest.

    Attributes:
        bodies: what is painted into the lungs.
        strands: linear scars and plugged bronchi, drawn as tubes of soft tissue.
        fissure_hu: how much brighter than the lung the fissures are.
    """

    bodies: tuple[BenignBody, ...] = ()
    strands: Pieces | None = None
    fissure_hu: float = 75.0


def draw_benign(
    fields: CoarseFields,
    fine: VolumeGeometry,
    vessels: Pieces,
    nodules: list[tuple[Vector, float]],
    rng: np.random.Generator,
) -> BenignFindings:
    """Draw the benign findings of one chest.

    Args:
        fields: its anatomy.
        fine: the painting grid.
        vessels: of its lungs, RAS mm.
        nodules: centres (RAS mm) and radii to stay clear of.
        rng: how many, where and how large.
    """
    maker = _Maker(fields, fine, nodules, rng)
    bodies: list[BenignBody] = []
    strands: list[Pieces] = []
    for make, mean in (
        (maker.spur, 5.0),
        (maker.plaque, 1.2),
        (maker.band, 1.2),
        (maker.dependent, 1.0),
        (maker.apical_scar, 1.2),
        (maker.thick_fissure, 1.0),
    ):
        for _ in range(int(rng.poisson(mean))):
            made = make()
            if made is not None:
                bodies.append(made[0])
                strands += made[1]
    strands += [maker.scar() for _ in range(int(rng.poisson(2.0)))]
    strands += maker.plugs(vessels, int(rng.poisson(2.5)))
    strands = [part for part in strands if len(part.start_mm)]
    return BenignFindings(
        bodies=tuple(bodies),
        strands=Pieces.join(strands) if strands else None,
        fissure_hu=float(rng.uniform(60, 260)),
    )


Made = tuple[BenignBody, list[Pieces]]


class _Maker:
    """Finds places and shapes in one chest."""

    def __init__(
        self, fields: CoarseFields, fine: VolumeGeometry, nodules: list[tuple[Vector, float]], rng: np.random.Generator
    ) -> None:
        self._fields, self._fine, self._nodules, self._rng = fields, fine, nodules, rng
        depth = -np.minimum(fields.field("right"), fields.field("left"))
        self._slope = np.stack(np.gradient(depth, *fields.geometry.spacing_mm), axis=-1)
        index = np.argwhere((depth > 0) & (depth < 2.6))
        self._wall_index = index
        self._wall = fields.geometry.ijk_to_ras(index)
        inner = np.argwhere(depth > 8)
        self._inner_index = inner
        self._inner = fields.geometry.ijk_to_ras(inner)
        self._heights = np.percentile(self._wall[:, 2], [3, 25, 50, 93]) if len(index) else np.zeros(4)
        self._bone = fields.field("bone")[tuple(index.T)]

    def spur(self) -> Made | None:
        """A bony spur of a vertebra or a rib's end: broad-based, dense."""
        rng = self._rng
        return self._on_wall(
            self._bone < 5.0,
            flat_mm=rng.uniform(1.5, 4.0),
            wide_mm=(rng.uniform(5, 10), rng.uniform(6, 13)),
            attenuation_hu=rng.uniform(80, 420),
            rough_mm=0.5,
        )

    def plaque(self) -> Made | None:
        """Pleural thickening: wide and flat, calcified now and then."""
        rng = self._rng
        return self._on_wall(
            np.ones(len(self._wall), dtype=bool),
            flat_mm=rng.uniform(1.4, 3.5),
            wide_mm=(rng.uniform(10, 22), rng.uniform(8, 18)),
            attenuation_hu=rng.uniform(150, 400) if rng.random() < 0.3 else rng.uniform(10, 60),
            rough_mm=0.8,
        )

    def dependent(self) -> Made | None:
        """Ground glass along the back where the lung is pressed together."""
        rng = self._rng
        return self._on_wall(
            self._wall[:, 1] < np.percentile(self._wall[:, 1], 18),
            flat_mm=rng.uniform(4, 10),
            wide_mm=(rng.uniform(12, 30), rng.uniform(14, 40)),
            attenuation_hu=rng.uniform(-720, -420),
            rough_mm=2.0,
            edge_mm=rng.uniform(3, 7),
        )

    def apical_scar(self) -> Made | None:
        """An irregular cap at the lung's apex with strands into the lung."""
        rng = self._rng
        made = self._on_wall(
            self._wall[:, 2] > self._heights[3],
            flat_mm=rng.uniform(2.0, 5.0),
            wide_mm=(rng.uniform(5, 14), rng.uniform(5, 10)),
            attenuation_hu=rng.uniform(-60, 80),
            rough_mm=1.6,
        )
        if made is None:
            return None
        body = made[0]
        middle = (np.asarray(body.box.start_ijk) + np.asarray(body.box.stop_ijk) - 1) / 2
        centre = self._fine.ijk_to_ras(middle)
        return body, [self._line(centre, rng.uniform(10, 22), rng.uniform(0.5, 0.9)) for _ in range(3)]

    def band(self) -> Made | None:
        """Plate atelectasis: a sheet from the pleura into the lower lung."""
        rng = self._rng
        return self._on_wall(
            self._wall[:, 2] < self._heights[1],
            flat_mm=rng.uniform(10, 24),
            wide_mm=(rng.uniform(12, 26), rng.uniform(0.9, 1.9)),
            attenuation_hu=rng.uniform(-300, 30),
            rough_mm=0.5,
        )

    def thick_fissure(self) -> Made | None:
        """A stretch of fissure that is thickened or holds fluid: a sheet two millimetres thick."""
        rng, fields = self._rng, self._fields
        near = np.abs(fields.field("oblique")[tuple(self._inner_index.T)])
        options = np.flatnonzero(near < 1.5)
        if len(options) == 0:
            return None
        centre = self._inner[int(rng.choice(options))]
        reach = rng.uniform(8, 22)
        if not self._is_clear(centre, reach):
            return None
        half_mm = rng.uniform(0.5, 1.4)
        box, offsets = self._around(centre, reach)
        if box.is_empty:
            return None
        ball = np.linalg.norm(offsets, axis=-1).reshape(box.shape_ijk) - reach
        sheet = np.abs(fields.box("oblique", box)) - half_mm * np.sqrt(np.clip(-ball / reach, 0, 1))
        width = float(np.mean(self._fine.spacing_mm))
        fraction = coverage(np.maximum(sheet, ball).astype(np.float32), width) * self._lung(box)
        return BenignBody(box=box, fraction=fraction, attenuation_hu=float(rng.uniform(-250, 30))), []

    def scar(self) -> Pieces:
        """A linear scar somewhere in the lung."""
        rng = self._rng
        if len(self._inner) == 0:
            return _nothing()
        centre = self._inner[int(rng.integers(len(self._inner)))]
        return self._line(centre, rng.uniform(12, 32), rng.uniform(0.5, 1.2))

    def plugs(self, vessels: Pieces, count: int) -> list[Pieces]:
        """Short thick tubes beside small vessels, often forked: bronchi filled with mucus."""
        rng = self._rng
        width = vessels.radius_mm.mean(axis=1)
        sized = np.flatnonzero((width > 0.7) & (width < 1.6))
        if len(sized) == 0:
            return []
        parts: list[Pieces] = []
        for n in rng.choice(sized, count):
            start = vessels.start_mm[n].astype(np.float64)
            along = (vessels.stop_mm[n] - vessels.start_mm[n]).astype(np.float64)
            along /= np.linalg.norm(along) + 1e-6
            radius = float(rng.uniform(1.0, 2.2))
            length = float(rng.uniform(4.0, 8.0)) * radius
            if not self._is_clear(start, length):
                continue
            side = np.cross(along, rng.standard_normal(3))
            side /= np.linalg.norm(side) + 1e-6
            root = start + side * (1.2 + radius)
            fork = root + along * length * 0.6
            parts.append(Pieces.along([root, fork], [radius, 0.9 * radius]))
            turns = (0.5, -0.5) if rng.random() < 0.6 else (0.15,)
            ends = [fork + (along + turn * side) * length * 0.5 for turn in turns]
            parts += [Pieces.along([fork, end], [0.8 * radius, 0.4]) for end in ends]
        return parts

    def _line(self, centre: Vector, length_mm: float, radius_mm: float) -> Pieces:
        rng = self._rng
        way = rng.standard_normal(3)
        way *= length_mm / np.linalg.norm(way)
        if not self._is_clear(centre, length_mm):
            return _nothing()
        bend = rng.normal(0, 0.1 * length_mm, 3)
        t = np.linspace(0, 1, len(_STRAND))[:, None]
        path = centre + t * way + t * (1 - t) * bend
        inside = self._depth_at(path) > 0.5
        # Only the stretch from the start that stays in the lung.
        last = len(path) if inside.all() else int(np.argmin(inside))
        return Pieces.along(path[:last], radius_mm * _STRAND[:last]) if last >= 2 else _nothing()

    def _on_wall(
        self, where: NDArray[np.bool_], *, flat_mm: float, wide_mm: tuple[float, float], attenuation_hu: float,
        rough_mm: float, edge_mm: float = 0.0,
    ) -> Made | None:  # fmt: skip
        """Half an ellipsoid on the pleura: so far into the lung, so wide along the wall."""
        rng = self._rng
        options = np.flatnonzero(where)
        reach = max(flat_mm, *wide_mm)
        for n in rng.permutation(options)[:20]:
            centre = self._wall[n]
            slope = self._fields.geometry.directions_ras @ self._slope[tuple(self._wall_index[n])]
            length = float(np.linalg.norm(slope))
            if length < 0.3 or not self._is_clear(centre, reach):
                continue
            inward = slope / length
            across = np.cross(inward, rng.standard_normal(3))
            across /= np.linalg.norm(across)
            axes = np.stack([inward, across, np.cross(inward, across)])
            rough = SineField.draw(rng, count=4, wavelength_mm=(5, 18), amplitude=rough_mm)
            body = self._ellipsoid(centre - 1.5 * inward, axes, np.array([flat_mm + 1.5, *wide_mm]), rough, edge_mm)
            if body is not None:
                return BenignBody(box=body[0], fraction=body[1], attenuation_hu=float(attenuation_hu)), []
        return None

    def _ellipsoid(
        self,
        centre: Vector,
        axes: Vector,
        radii_mm: Vector,
        rough: Callable[[Float, Float, Float], Float],
        edge_mm: float,
    ) -> tuple[IndexBox, Float] | None:
        """Shares of an ellipsoid with an uneven surface, inside the lungs."""
        box, offsets = self._around(centre, float(radii_mm.max()) + 2.0)
        if box.is_empty:
            return None
        along = offsets @ axes.T / radii_mm
        level = np.sqrt(np.sum(along**2, axis=-1))
        steep = np.sqrt(np.sum((along / radii_mm) ** 2, axis=-1))
        distance = level * (level - 1) / np.maximum(steep, 1e-4)
        x, y, z = offsets.astype(np.float32).T
        distance = distance.astype(np.float32) + np.minimum(0.35 * float(radii_mm.min()), 1.0) * rough(x, y, z)
        width = max(edge_mm, float(np.mean(self._fine.spacing_mm)))
        fraction = coverage(distance, width).reshape(box.shape_ijk) * self._lung(box)
        return (box, fraction) if np.any(fraction > 0.3) else None

    def _around(self, centre: Vector, reach_mm: float) -> tuple[IndexBox, Vector]:
        """The box of a ball, and its voxels' offsets from the centre (n, 3) in RAS mm."""
        spacing = np.asarray(self._fine.spacing_mm)
        middle = self._fine.ras_to_ijk(centre)
        low = np.floor(middle - reach_mm / spacing - 1).astype(int)
        high = np.ceil(middle + reach_mm / spacing + 2).astype(int)
        box = IndexBox(start_ijk=tuple(low.tolist()), stop_ijk=tuple(high.tolist())).clip(self._fine.shape_ijk)
        if box.is_empty:
            return box, np.zeros((0, 3))
        axes = [np.arange(a, b) for a, b in zip(box.start_ijk, box.stop_ijk, strict=True)]
        index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3) - middle
        return box, np.asarray(index @ (self._fine.directions_ras * spacing).T)

    def _lung(self, box: IndexBox) -> Float:
        surface = np.minimum(self._fields.box("right", box), self._fields.box("left", box))
        return coverage(surface, float(np.mean(self._fine.spacing_mm)))

    def _depth_at(self, points: Vector) -> Vector:
        index = np.rint(self._fields.geometry.ras_to_ijk(points)).astype(int)
        index = np.clip(index, 0, np.asarray(self._fields.geometry.shape_ijk) - 1)
        right, left = (self._fields.field(side)[tuple(index.T)] for side in ("right", "left"))
        return np.asarray(-np.minimum(right, left), dtype=np.float64)

    def _is_clear(self, centre: Vector, reach_mm: float) -> bool:
        return all(
            np.linalg.norm(np.asarray(other) - centre) > reach_mm + other_mm + _CLEAR_MM
            for other, other_mm in self._nodules
        )


def _nothing() -> Pieces:
    empty = np.zeros((0, 3), dtype=np.float32)
    return Pieces(start_mm=empty, stop_mm=empty, radius_mm=empty[:, :2])
