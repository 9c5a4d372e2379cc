"""Pulmonary arteries, veins and bronchi as branching trees.

Every lobe is filled with evenly scattered end points; a tree divides the end points it has to reach in two, again and
again, and its radii follow the number of end points behind them. This is how the volume-dividing models of the airways
work (Kitaoka 1999), and it gives what a reader expects: many generations, tapering, vessels dense near the hilum,
arteries beside bronchi and veins between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medai.phantom.anatomy import LEFT_BRONCHUS_MM, RIGHT_BRONCHUS_MM, TRACHEA_MM, Chest
from medai.phantom.fields import Float, Reals

LEAF_RADIUS_MM = 0.5
MURRAY_EXPONENT = 2.75
LEAVES_PER_LUNG = 2600
AIRWAY_LEAVES = 30
"""Arteries that feed at least this many end points have a bronchus wide enough to be seen beside them."""

ARTERY_TRUNK = {
    "right": ((-12, 28, -30), (-10, 22, -16), (14, 3, -17), (37, -6, -19)),
    "left": ((-12, 28, -30), (-14, 22, -14), (-31, 0, -6), (-38, -10, -8)),
}
ARTERY_HUBS = {1: (45, -3, 6), 2: (52, 10, -38), 3: (45, -24, -44), 4: (-46, 4, 8), 5: (-45, -27, -40)}
VEIN_ORIGIN = {1: (26, 0, -36), 2: (26, 0, -38), 3: (24, -16, -54), 4: (-27, 2, -36), 5: (-26, -18, -52)}
VEIN_HUBS = {1: (46, 9, -20), 2: (47, 15, -44), 3: (42, -20, -66), 4: (-46, 12, -20), 5: (-42, -22, -60)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pieces:
    """Short tapered tubes.

    Attributes:
        start_mm: (n, 3).
        stop_mm: (n, 3).
        radius_mm: (n, 2), at start and stop.
    """

    start_mm: Float
    stop_mm: Float
    radius_mm: Float

    @classmethod
    def along(cls, path_mm: ArrayLike, radii_mm: ArrayLike) -> Pieces:
        """The tubes along one polyline: path (n, 3), radii (n,)."""
        path, radii = np.asarray(path_mm, dtype=np.float32), np.asarray(radii_mm, dtype=np.float32)
        return cls(start_mm=path[:-1], stop_mm=path[1:], radius_mm=np.stack([radii[:-1], radii[1:]], axis=1))

    @classmethod
    def join(cls, parts: Sequence[Pieces]) -> Pieces:
        """All pieces of several sets."""
        return cls(
            start_mm=np.concatenate([p.start_mm for p in parts]),
            stop_mm=np.concatenate([p.stop_mm for p in parts]),
            radius_mm=np.concatenate([p.radius_mm for p in parts]),
        )

    def moved(self, chest: Chest) -> Pieces:
        """From the template to the patient."""
        size = np.float32(np.mean(chest.size))
        return Pieces(
            start_mm=chest.from_template(self.start_mm),
            stop_mm=chest.from_template(self.stop_mm),
            radius_mm=self.radius_mm * size,
        )

    def shifted(self, offset_mm: Reals) -> Pieces:
        """Moved by an offset (3,)."""
        offset = offset_mm.astype(np.float32)
        return Pieces(start_mm=self.start_mm + offset, stop_mm=self.stop_mm + offset, radius_mm=self.radius_mm)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trees:
    """The vessels and airways of a chest, in patient millimetres.

    Attributes:
        arteries: pulmonary arteries.
        veins: pulmonary veins.
        airways: air inside trachea and bronchi.
        airway_walls: outside of the same.
    """

    arteries: Pieces
    veins: Pieces
    airways: Pieces
    airway_walls: Pieces

    @property
    def vessels(self) -> Pieces:
        """Arteries and veins."""
        return Pieces.join([self.arteries, self.veins])


def smooth_path(points: Reals, step_mm: float) -> Float:
    """A Catmull-Rom curve through points (n, 3), resampled about every ``step_mm``."""
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    parts = []
    for a, b, c, d in zip(padded[:-3], padded[1:-2], padded[2:-1], padded[3:], strict=True):
        count = max(1, int(np.ceil(np.linalg.norm(c - b) / step_mm)))
        t = (np.arange(count) / count)[:, None]
        parts.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    result: Float = np.concatenate([*parts, points[-1:]]).astype(np.float32)
    return result


def scatter_targets(chest: Chest, rng: np.random.Generator, per_lung: int) -> dict[int, NDArray[np.float64]]:
    """End points by lobe: one in each cell of a jittered lattice, a few millimetres away from pleura and fissures."""
    volume_mm3 = 2.6e6
    pitch = (volume_mm3 / per_lung) ** (1 / 3)
    axes = [np.arange(-140, 140, pitch), np.arange(-105, 105, pitch), np.arange(-190, 115, pitch)]
    lattice = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    lattice = (lattice + rng.uniform(0, pitch, lattice.shape)).astype(np.float32)
    x, y, z = lattice.T
    right, left = chest.lungs(x, y, z)
    depth = -np.minimum(right, left)
    oblique, horizontal = chest.fissures(x, y, z)
    apart = np.where((x > 0) & (oblique < 0), np.minimum(np.abs(oblique), np.abs(horizontal)), np.abs(oblique))
    wanted = (depth > rng.uniform(2.0, 5.5, depth.shape)) & (apart > 2.0)
    lobes = chest.lobes(x, y, z)
    return {lobe: lattice[wanted & (lobes == lobe)].astype(np.float64) for lobe in range(1, 6)}


def leaf_radius(leaves: int) -> float:
    """Radius of a vessel that feeds so many end points (Murray's law)."""
    return float(LEAF_RADIUS_MM * leaves ** (1 / MURRAY_EXPONENT))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Branch:
    """One unbranched vessel: curve (n, 3), radii (n,), end points behind it."""

    path_mm: Float
    radii_mm: Float
    leaves: int


def grow(
    rng: np.random.Generator, root: NDArray[np.float64], heading: NDArray[np.float64], targets: NDArray[np.float64]
) -> list[Branch]:
    """Grow a tree from ``root`` to every target; all (…, 3) template millimetres."""
    branches: list[Branch] = []
    open_ends = [(root, heading, targets, leaf_radius(len(targets)))]
    while open_ends:
        start, heading, behind, width = open_ends.pop()
        count = len(behind)
        if count == 0:
            continue
        centre = behind.mean(axis=0)
        way = centre - start
        share = rng.uniform(0.20, 0.38) if count > 60 else rng.uniform(0.35, 0.58)
        stop = behind[0] if count == 1 else start + way * share
        length = float(np.linalg.norm(stop - start))
        if count > 1 and length < 2.0:
            stop = start + way * min(1.0, 2.0 / (np.linalg.norm(way) + 1e-6))
            length = float(np.linalg.norm(stop - start))
        straight = (stop - start) / (length + 1e-6)
        bend = heading + straight
        bend /= np.linalg.norm(bend) + 1e-6
        first = start + bend * length * 0.38
        sway = rng.normal(0, 0.055 * length, 3)
        second = start + (stop - start) * 0.7 + sway
        path = bezier(start, first, second, stop, step_mm=2.4)
        radius = leaf_radius(count)
        thin = radius if count > 1 else 0.34
        radii = np.linspace(min(width, radius * 1.25), thin, len(path)).astype(np.float32)
        branches.append(Branch(path_mm=path, radii_mm=radii, leaves=count))
        if count == 1:
            continue
        onward = stop - second
        onward /= np.linalg.norm(onward) + 1e-6
        open_ends.extend((stop, onward, half, radius) for half in split(rng, behind, onward))
    return branches


def split(
    rng: np.random.Generator, points: NDArray[np.float64], heading: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Divide points by a plane that holds the heading, across their widest spread, not always in equal parts."""
    centred = points - points.mean(axis=0)
    flat = centred - np.outer(centred @ heading, heading) * 0.75
    axis = np.linalg.eigh(flat.T @ flat)[1][:, -1]
    score = centred @ axis
    order = np.argsort(score, kind="stable")
    cut = int(np.clip(round(len(points) * rng.uniform(0.28, 0.72)), 1, len(points) - 1))
    return points[order[:cut]], points[order[cut:]]


def bezier(
    a: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64], d: NDArray[np.float64], *, step_mm: float
) -> Float:
    """A cubic Bézier curve resampled about every ``step_mm``."""
    count = max(2, int(np.ceil(np.linalg.norm(d - a) / step_mm)) + 1)
    t = np.linspace(0, 1, count)[:, None]
    curve: Float = ((1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d).astype(np.float32)
    return curve


def as_pieces(branches: Sequence[Branch]) -> Pieces:
    """Every branch cut into tubes."""
    return Pieces.join([Pieces.along(branch.path_mm, branch.radii_mm) for branch in branches])


def lobe_tree(
    rng: np.random.Generator, origin: Sequence[float], hub: Sequence[float], targets: NDArray[np.float64]
) -> list[Branch]:
    """The vessel from the hilum's origin to a lobe's hub, and the tree behind it."""
    start, root = np.asarray(origin, float), np.asarray(hub, float) + rng.normal(0, 1.5, 3)
    heading = (root - start) / np.linalg.norm(root - start)
    stem = smooth_path(np.stack([start, 0.5 * (start + root) + rng.normal(0, 1, 3), root]), 2.4)
    radius = leaf_radius(len(targets))
    radii = np.linspace(radius * 1.2, radius, len(stem)).astype(np.float32)
    return [Branch(path_mm=stem, radii_mm=radii, leaves=len(targets)), *grow(rng, root, heading, targets)]


def beside(branch: Branch) -> tuple[Float, Float]:
    """The bronchus that runs beside an artery: its path and the radius of its air."""
    along = np.gradient(branch.path_mm, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-6
    toward = np.array([-0.25, 0.35, -0.9], dtype=np.float32)
    toward = np.where(branch.path_mm[:, :1] < 0, toward * [-1, 1, 1], toward)
    across = toward - along * np.sum(toward * along, axis=1, keepdims=True)
    across /= np.linalg.norm(across, axis=1, keepdims=True) + 0.2
    air = branch.radii_mm * 0.56
    path: Float = (branch.path_mm + across * (branch.radii_mm + air * 1.45 + 0.3)[:, None]).astype(np.float32)
    return path, air.astype(np.float32)


def make_trees(chest: Chest, rng: np.random.Generator, detail: float) -> Trees:
    """All trees of one chest, in patient millimetres."""
    per_lung = max(30, int(LEAVES_PER_LUNG * detail))
    arteries: list[Branch] = []
    veins: list[Branch] = []
    for lobe, targets in scatter_targets(chest, rng, per_lung).items():
        side = "right" if lobe <= 3 else "left"
        if len(targets):
            arteries += lobe_tree(rng, ARTERY_TRUNK[side][-1], ARTERY_HUBS[lobe], targets)
    for lobe, targets in scatter_targets(chest, rng, per_lung).items():
        if len(targets):
            veins += lobe_tree(rng, VEIN_ORIGIN[lobe], VEIN_HUBS[lobe], targets)
    trunks: list[Pieces] = []
    for side, radii in (("right", (13, 12, 9.5, 8)), ("left", (13, 12.5, 10.5, 8.5))):
        path = smooth_path(np.array(ARTERY_TRUNK[side], float), 3.0)
        trunks.append(Pieces.along(path, np.interp(np.linspace(0, 3, len(path)), range(4), radii)))
    air, walls = airways(chest, arteries)
    return Trees(
        arteries=Pieces.join([as_pieces(arteries), *trunks]).moved(chest),
        veins=as_pieces(veins).moved(chest),
        airways=air.moved(chest),
        airway_walls=walls.moved(chest),
    )


def airways(chest: Chest, arteries: Sequence[Branch]) -> tuple[Pieces, Pieces]:
    """Trachea, main bronchi and the bronchi beside the larger arteries: air and outer wall."""
    air: list[Pieces] = []
    walls: list[Pieces] = []
    for path, radii in (
        (TRACHEA_MM, (9, 9, 9, 9.5)),
        (RIGHT_BRONCHUS_MM, (7.5, 7, 6, 4.6)),
        (LEFT_BRONCHUS_MM, (6.8, 6.2, 5.4, 4.4)),
    ):
        curve = smooth_path(np.array(path, float), 3.0)
        sizes = np.interp(np.linspace(0, len(radii) - 1, len(curve)), range(len(radii)), radii)
        air.append(Pieces.along(curve, sizes))
        walls.append(Pieces.along(curve, sizes + 1.4))
    for branch in arteries:
        if branch.leaves >= AIRWAY_LEAVES:
            beside_path, lumen = beside(branch)
            # Behind the hilum a bronchus that would leave the lung (into the heart, say) is left out.
            if branch.leaves < 250 and float(np.max(np.minimum(*chest.lungs(*beside_path.T)))) > 0:
                continue
            air.append(Pieces.along(beside_path, lumen))
            walls.append(Pieces.along(beside_path, lumen * 1.18 + 0.28))
    return Pieces.join(air), Pieces.join(walls)
