"""Nodules: their shape, where they may lie, and exactly which share of each voxel they fill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medai.domain import NoduleKind
from medai.errors import InputError
from medai.geometry import IndexBox, VolumeGeometry
from medai.phantom.config import Attachment, Margin, NoduleSpec
from medai.phantom.fields import Float, Reals, SineField, coverage
from medai.phantom.grid import CoarseFields
from medai.phantom.trees import Pieces

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shape:
    """A star-shaped body: its radius as a function of direction.

    Attributes:
        radius_mm: of the sphere of the same volume.
        stretch: 3×3 of determinant 1, turns an offset from the centre into the frame where ``relief`` applies.
        relief: bumps over the unit sphere.
        spikes: (n, 3) unit vectors.
        spike_heights: (n,) as a share of the radius.
        spike_sharpness: concentration of a spike around its direction.
    """

    radius_mm: float
    stretch: Vector
    relief: SineField
    spikes: Vector
    spike_heights: Vector
    spike_sharpness: float

    @classmethod
    def draw(cls, rng: np.random.Generator, margin: Margin, diameter_mm: float) -> Shape:
        """Draw a shape of the given volume-equivalent diameter."""
        ratios = np.exp(rng.normal(0, 0.10, 3))
        axes = np.linalg.qr(rng.standard_normal((3, 3)))[0]
        stretch = axes @ np.diag(ratios / np.prod(ratios) ** (1 / 3)) @ axes.T
        bumps, amplitude = ((0.9, 1.5), 0.13) if margin is Margin.LOBULATED else ((1.4, 3.4), 0.055)
        count = int(rng.integers(14, 26)) if margin is Margin.SPICULATED else 0
        spikes = rng.standard_normal((count, 3))
        spikes /= np.linalg.norm(spikes, axis=1, keepdims=True)
        draft = cls(
            radius_mm=diameter_mm / 2,
            stretch=stretch,
            relief=SineField.draw(rng, count=7, wavelength_mm=bumps, amplitude=amplitude),
            spikes=spikes,
            spike_heights=rng.uniform(0.22, 0.6, count),
            spike_sharpness=float(rng.uniform(45, 90)),
        )
        return draft.with_radius(
            (diameter_mm / 2) ** 3 / float(np.mean(draft.relative_radius(even_directions(20_000)) ** 3))
        )

    def with_radius(self, cubed_mm3: float) -> Shape:
        """The same shape with another radius, given as its cube."""
        return replace(self, radius_mm=float(cubed_mm3 ** (1 / 3)))

    def relative_radius(self, directions: Reals) -> Float:
        """Radius over ``radius_mm`` for unit vectors (n, 3)."""
        unit = directions.astype(np.float32)
        result = 1 + self.relief(unit[:, 0], unit[:, 1], unit[:, 2])
        for spike, height in zip(self.spikes, self.spike_heights, strict=True):
            result += height * np.exp(self.spike_sharpness * (unit @ spike.astype(np.float32) - 1))
        return np.maximum(result, 0.35).astype(np.float32)

    @property
    def volume_mm3(self) -> float:
        """Analytic volume: the integral of radius³/3 over all directions."""
        return float(4 / 3 * np.pi * np.mean((self.radius_mm * self.relative_radius(even_directions(20_000))) ** 3.0))

    @property
    def reach_mm(self) -> float:
        """No point of the body is further from its centre."""
        longest = float(np.max(self.relative_radius(even_directions(2_000))))
        return self.radius_mm * longest * 1.06 / float(np.min(np.linalg.svd(self.stretch, compute_uv=False)))

    def distance(self, offsets_mm: Reals) -> Float:
        """Distance to the surface along the ray from the centre, negative inside; offsets (n, 3) in RAS mm."""
        inner = offsets_mm.astype(np.float32) @ self.stretch.T.astype(np.float32)
        length = np.sqrt(np.einsum("ij,ij->i", inner, inner))
        unit = inner / np.maximum(length, 1e-6)[:, None]
        result: Float = length - np.float32(self.radius_mm) * self.relative_radius(unit)
        return result


def even_directions(count: int) -> Vector:
    """Unit vectors spread evenly over the sphere (Fibonacci lattice)."""
    n = np.arange(count) + 0.5
    up = 1 - 2 * n / count
    turn = np.pi * (1 + 5**0.5) * n
    flat = np.sqrt(1 - up * up)
    return np.stack([flat * np.cos(turn), flat * np.sin(turn), up], axis=1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlacedNodule:
    """A nodule on the grid the phantom is painted on.

    Attributes:
        spec: what was asked for.
        centre_ras_mm: centre of the shape.
        shape: its body, as drawn.
        box: in the painting grid.
        fraction: share of each voxel of the box that the nodule fills.
        core: share that its solid core fills (part-solid), else None.
        body_hu: attenuation of the body.
        core_hu: attenuation of the core.
        strands: fine spicules that radiate from it; not part of its volume.
    """

    spec: NoduleSpec
    centre_ras_mm: Vector
    shape: Shape
    box: IndexBox
    fraction: Float
    core: Float | None
    body_hu: float
    core_hu: float
    strands: Pieces | None


def shape_fraction(shape: Shape, centre_ras_mm: Vector, geometry: VolumeGeometry) -> tuple[IndexBox, Float]:
    """The share of each voxel a shape fills, from sub-voxel samples.

    Args:
        shape: the body.
        centre_ras_mm: its centre.
        geometry: the grid; the box is clipped to it.

    Returns:
        The box and the shares in it, float32 0–1.
    """
    spacing = np.asarray(geometry.spacing_mm)
    centre = geometry.ras_to_ijk(centre_ras_mm)
    reach = shape.reach_mm / spacing + 1
    (i0, j0, k0), (i1, j1, k1) = np.floor(centre - reach).astype(int), np.ceil(centre + reach).astype(int) + 1
    box = IndexBox(start_ijk=(int(i0), int(j0), int(k0)), stop_ijk=(int(i1), int(j1), int(k1)))
    box = box.clip(geometry.shape_ijk)
    step = max(0.16, min(0.5, shape.radius_mm / 9))
    parts = np.clip(np.ceil(spacing / step), 1, 12).astype(int)
    fine_step = float(np.mean(spacing / parts))
    total = np.zeros(box.shape_ijk, dtype=np.float32)
    turn = geometry.directions_ras * spacing
    axes = [np.arange(a, b) for a, b in zip(box.start_ijk, box.stop_ijk, strict=True)]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3) - centre
    for n in np.ndindex(*parts):
        shift = (np.asarray(n) + 0.5) / parts - 0.5
        total += coverage(shape.distance((index + shift) @ turn.T), fine_step).reshape(box.shape_ijk)
    return box, (total / np.prod(parts)).astype(np.float32)


class NodulePlacer:
    """Finds places for nodules in one chest and keeps them apart."""

    def __init__(self, fields: CoarseFields, fine: VolumeGeometry, vessels: Pieces, rng: np.random.Generator) -> None:
        self._fields = fields
        self._fine = fine
        self._vessels = vessels
        self._rng = rng
        self._taken: list[tuple[Vector, float]] = []
        depth = -np.minimum(fields.field("right"), fields.field("left"))
        index = np.argwhere(depth > 0)
        self._points = fields.geometry.ijk_to_ras(index)
        self._depths = depth[tuple(index.T)]
        self._costal = np.abs(fields.field("cage")[tuple(index.T)])
        self._gradient = index, depth

    def place(self, spec: NoduleSpec) -> PlacedNodule:
        """Draw a shape for ``spec`` and put it where its attachment allows.

        Raises:
            InputError: no such place is left in the field of view.
        """
        shape = Shape.draw(self._rng, spec.margin, spec.diameter_mm)
        centre = np.asarray(spec.centre_ras_mm) if spec.centre_ras_mm is not None else self._find(spec, shape)
        if self._depth_at(centre) <= 0:
            raise InputError(
                f"A phantom nodule was asked for at RAS {tuple(np.round(centre, 1))} mm, which is outside the lungs "
                "or the field of view; leave centre_ras_mm out and a place is found."
            )
        box, fraction, shape = self._clip_to_lung(shape, centre, spec.diameter_mm)
        if not np.any(fraction >= 0.5):
            raise InputError(
                f"A {spec.diameter_mm:g} mm nodule fills no voxel of {self._fine.describe()}; make it larger."
            )
        self._taken.append((centre, shape.reach_mm))
        return self._finish(spec, shape, centre, box, fraction)

    def place_drawn(self, spec: NoduleSpec, smallest_mm: float) -> PlacedNodule:
        """Like ``place``, but a nodule for which there is no room becomes smaller until there is, down to a limit."""
        while True:
            try:
                return self.place(spec)
            except InputError:
                if spec.diameter_mm <= smallest_mm:
                    raise
                spec = replace(spec, diameter_mm=max(smallest_mm, 0.75 * spec.diameter_mm))

    def _finish(self, spec: NoduleSpec, shape: Shape, centre: Vector, box: IndexBox, fraction: Float) -> PlacedNodule:
        """Draw attenuation, core and strands."""
        rng = self._rng
        core = None
        if spec.kind is NoduleKind.PART_SOLID:
            inner = Shape.draw(rng, Margin.LOBULATED, spec.diameter_mm * rng.uniform(0.35, 0.6))
            offset = rng.normal(0, 0.10 * spec.diameter_mm, 3)
            core_box, core_share = shape_fraction(inner, centre + offset, self._fine)
            core = np.zeros_like(fraction)
            both = core_box.intersect(box)
            core[both.shift([-s for s in box.start_ijk]).slices] = core_share[
                both.shift([-s for s in core_box.start_ijk]).slices
            ]
            core = np.minimum(core, fraction)
        solid = spec.kind is NoduleKind.SOLID
        usual = rng.uniform(15, 70) if solid else rng.uniform(-690, -540)
        return PlacedNodule(
            spec=spec,
            centre_ras_mm=centre,
            shape=shape,
            box=box,
            fraction=fraction,
            core=core,
            body_hu=float(usual if spec.attenuation_hu is None else spec.attenuation_hu),
            core_hu=float(rng.uniform(0, 50)),
            strands=draw_strands(rng, shape, centre) if spec.margin is Margin.SPICULATED else None,
        )

    def _clip_to_lung(self, shape: Shape, centre: Vector, diameter_mm: float) -> tuple[IndexBox, Float, Shape]:
        """Cut off what lies outside the lungs and grow the rest to the volume that was asked for."""
        goal = np.pi / 6 * diameter_mm**3
        for _ in range(4):
            box, fraction = shape_fraction(shape, centre, self._fine)
            if box.is_empty:
                raise InputError(
                    f"A nodule centre at RAS {tuple(np.round(centre, 1))} mm is outside the field of view."
                )
            lung = np.minimum(self._fields.box("right", box), self._fields.box("left", box))
            fraction = np.minimum(fraction, coverage(lung, float(np.mean(self._fine.spacing_mm))))
            volume = float(fraction.sum()) * self._fine.voxel_volume_mm3
            if abs(volume / goal - 1) < 0.01 or volume == 0:
                break
            shape = shape.with_radius(shape.radius_mm**3 * min(2.0, goal / volume))
        return box, fraction, shape

    def _find(self, spec: NoduleSpec, shape: Shape) -> Vector:
        """A centre that fits the attachment, clear of nodules placed before."""
        reach = shape.reach_mm
        if spec.attachment is Attachment.JUXTAVASCULAR:
            options = self._beside_vessels(shape)
        else:
            options = self._in_lung(spec, shape)
        margin = np.minimum(reach / np.asarray(self._fine.spacing_mm) + 1, np.asarray(self._fine.shape_ijk) / 2 - 1)
        index = self._fine.ras_to_ijk(options)
        options = options[np.all((index >= margin) & (index <= np.asarray(self._fine.shape_ijk) - 1 - margin), axis=1)]
        for other, other_reach in self._taken:
            options = options[np.linalg.norm(options - other, axis=1) > reach + other_reach + 5]
        if len(options) == 0:
            raise InputError(
                f"No place for a {spec.diameter_mm:g} mm {spec.attachment.value} nodule in {self._fine.describe()}: "
                "ask for fewer or smaller nodules or a larger field of view."
            )
        options = options[self._rng.permutation(len(options))[:60]]
        if spec.attachment is Attachment.ISOLATED:
            room = np.array([self._vessel_clearance(point) for point in options]) - reach - 1.0
            clear = np.flatnonzero(room > 0)
            return np.asarray(options[clear[0] if len(clear) else int(np.argmax(room))], dtype=np.float64)
        return np.asarray(options[0], dtype=np.float64)

    def _in_lung(self, spec: NoduleSpec, shape: Shape) -> Vector:
        """Centres for isolated and juxtapleural nodules, (n, 3)."""
        if spec.attachment is Attachment.ISOLATED:
            deep = np.flatnonzero(self._depths > shape.reach_mm + 2.5)
            return np.asarray(self._points[self._rng.permutation(deep)[:4000]])
        near = np.flatnonzero((self._depths < 4) & (self._costal < 7))
        near = self._rng.permutation(near)[:1500]
        points = self._points[near]
        depth = self._rng.uniform(0.25, 0.75, (len(near), 1)) * shape.radius_mm
        index, field = self._gradient
        inward = (
            np.stack(
                [
                    field[tuple(np.clip(index[near] + step, 0, np.array(field.shape) - 1).T)]
                    - field[tuple(np.clip(index[near] - step, 0, np.array(field.shape) - 1).T)]
                    for step in np.eye(3, dtype=int)
                ],
                axis=1,
            )
            @ self._fields.geometry.directions_ras.T
        )
        length = np.linalg.norm(inward, axis=1, keepdims=True)
        moved = points + inward / np.maximum(length, 1e-6) * (depth - self._depths[near][:, None])
        good = (length[:, 0] > 1) & (np.array([self._depth_at(p) for p in moved]) > 0.15 * shape.radius_mm)
        return np.asarray(moved[good])

    def _beside_vessels(self, shape: Shape) -> Vector:
        """Centres whose body overlaps the side of a mid-sized vessel, (n, 3)."""
        v = self._vessels
        width = v.radius_mm.mean(axis=1)
        sized = np.flatnonzero((width > 0.8) & (width < 2.6))
        sized = self._rng.permutation(sized)[:1500]
        middle = 0.5 * (v.start_mm[sized] + v.stop_mm[sized]).astype(np.float64)
        along = (v.stop_mm[sized] - v.start_mm[sized]).astype(np.float64)
        across = np.cross(along, self._rng.standard_normal(along.shape))
        across /= np.linalg.norm(across, axis=1, keepdims=True) + 1e-9
        centres = middle + across * (0.85 * shape.radius_mm + 0.4 * width[sized])[:, None]
        deep = np.array([self._depth_at(p) for p in centres]) > shape.reach_mm + 1.5
        return np.asarray(centres[deep])

    def _depth_at(self, point_ras_mm: Vector) -> float:
        """Depth in the lung, mm, linearly interpolated; negative outside."""
        field = self._gradient[1]
        at = self._fields.geometry.ras_to_ijk(point_ras_mm)
        base = np.floor(at).astype(int)
        if np.any(base < 0) or np.any(base + 1 >= field.shape):
            return -np.inf
        cell = field[tuple(slice(b, b + 2) for b in base)].astype(np.float64)
        for t in at - base:
            cell = cell[0] * (1 - t) + cell[1] * t
        return float(cell)

    def _vessel_clearance(self, point_ras_mm: Vector) -> float:
        """Distance from a point to the wall of the nearest vessel that would be mistaken for an attachment."""
        v = self._vessels
        thick = v.radius_mm.mean(axis=1) > 0.9
        middle = 0.5 * (v.start_mm[thick] + v.stop_mm[thick])
        away = np.linalg.norm(middle - point_ras_mm, axis=1) - v.radius_mm[thick].mean(axis=1)
        return float(away.min(initial=np.inf))


def draw_strands(rng: np.random.Generator, shape: Shape, centre: Vector) -> Pieces:
    """Fine lines that radiate from a spiculated nodule into the lung."""
    parts: list[Pieces] = []
    for spike in shape.spikes:
        if rng.random() < 0.7:
            outward = np.linalg.solve(shape.stretch, spike)
            bend = rng.normal(0, 0.12, 3)
            t = np.linspace(0.9, rng.uniform(1.6, 2.3), 6)[:, None]
            path = centre + shape.radius_mm * (t * outward + (t - 0.9) ** 2 * bend)
            parts.append(Pieces.along(path, np.linspace(0.55, 0.15, 6)))
    return Pieces.join(parts) if parts else Pieces.along(np.stack([centre, centre]), np.array([0.1, 0.1]))


def draw_specs(rng: np.random.Generator, count: int, smallest_mm: float) -> tuple[NoduleSpec, ...]:
    """Nodules of mixed kinds and sizes, none below ``smallest_mm``, small ones more often, as screening finds them."""
    kinds: Sequence[NoduleKind] = (NoduleKind.SOLID, NoduleKind.PART_SOLID, NoduleKind.NON_SOLID)
    specs = []
    for _ in range(count):
        kind = kinds[int(rng.choice(3, p=[0.66, 0.16, 0.18]))]
        low = max(4.0 if kind is NoduleKind.SOLID else 7.0, smallest_mm)
        diameter = float(np.clip(low + rng.gamma(1.7, 4.0), low, max(30.0, low)))
        attachment = list(Attachment)[int(rng.choice(3, p=[0.5, 0.27, 0.23]))]
        margins = [0.5, 0.25, 0.25] if diameter > 8 and kind is not NoduleKind.NON_SOLID else [0.8, 0.2, 0.0]
        specs.append(
            NoduleSpec(
                diameter_mm=diameter,
                kind=kind,
                attachment=attachment,
                margin=list(Margin)[int(rng.choice(3, p=margins))],
            )
        )
    return tuple(sorted(specs, key=lambda spec: -spec.diameter_mm))
