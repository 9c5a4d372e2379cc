"""Makes a phantom: draws a person, grows vessels, places nodules, paints and scans."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.domain import NoduleKind, Volume
from medai.geometry import IndexBox, VolumeGeometry
from medai.phantom.anatomy import FIELD_CENTRE_MM, Chest, lobe_number
from medai.phantom.benign import BenignFindings, draw_benign
from medai.phantom.config import Attachment, Kernel, Margin, PhantomConfig
from medai.phantom.fields import Float, Reals, SineField
from medai.phantom.grid import THREADS, CoarseFields, evaluate, make_distance
from medai.phantom.nodules import NodulePlacer, PlacedNodule, draw_specs
from medai.phantom.painting import Scene
from medai.phantom.scanner import USUAL_NOISE_HU, Scanner, slice_profile
from medai.phantom.tissue import blood_pool, chest_wall, flat_bones, organs, ribs, spine, table
from medai.phantom.trees import Pieces, Trees, make_trees
from medai.phantom.tubes import FULL, draw_tubes

_FIELDS = (
    "body", "right", "left", "bone", "soft", "offset", "pool", "cortex", "oblique", "horizontal", "grain", "gravity",
    "table", "across", "cage", "texture",
)  # fmt: skip
_SUB_SLICE_MM = 1.25
_CHUNK_SLICES = 12
_LOWEST_HU = -1024


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PhantomNodule:
    """A nodule whose volume and place are known.

    Attributes:
        box: where ``mask`` and ``fraction`` lie in the scan's index space.
        mask: bool, voxels of which the nodule fills at least half.
        fraction: float32, the share of each voxel that it fills.
        centre_ras_mm: centre of mass.
        volume_mm3: sub-voxel volume, the sum of ``fraction`` times the voxel volume.
        diameter_mm: of the sphere with that volume.
        kind: attenuation type.
        attachment: what it touches.
        margin: its edge.
    """

    box: IndexBox
    mask: NDArray[np.bool_]
    fraction: Float
    centre_ras_mm: tuple[float, float, float]
    volume_mm3: float
    diameter_mm: float
    kind: NoduleKind
    attachment: Attachment
    margin: Margin


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Phantom:
    """A chest CT and the truth about it.

    Attributes:
        volume: the scan, int16 HU.
        nodules: largest first where they were drawn, else in the order of the configuration.
        lungs: uint8 [i, j, k]: 1 right, 2 left (nodules and the vessels inside the lungs are part of them).
        lobes: uint8 [i, j, k]: 1 right upper, 2 middle, 3 right lower, 4 left upper, 5 left lower.
        vessels: bool [i, j, k]: voxels mostly filled by pulmonary vessels, the distractors of a nodule finder.
    """

    volume: Volume
    nodules: tuple[PhantomNodule, ...]
    lungs: NDArray[np.uint8]
    lobes: NDArray[np.uint8]
    vessels: NDArray[np.bool_]


def make_phantom(config: PhantomConfig, rng: np.random.Generator) -> Phantom:
    """Make a chest CT with known nodules.

    The same configuration and generator state give the same phantom, voxel for voxel.

    Args:
        config: grid, nodules, kernel and noise.
        rng: source of the anatomy, the nodules and the noise.

    Raises:
        InputError: the nodules do not fit into the lungs that the field of view shows.
    """
    geometry = config.geometry()
    spacing_k = config.spacing_mm[2]
    per_slice = max(1, round(spacing_k / _SUB_SLICE_MM))
    fine = finer_along_k(geometry, per_slice)
    chest = Chest.draw(rng)
    contrast = bool(rng.random() < 0.4) if config.contrast is None else config.contrast
    centre = np.asarray(config.centre_ras_mm) - chest.from_template(np.array([FIELD_CENTRE_MM]))[0]
    fields = _anatomy(chest, fine, centre, rng)
    trees = make_trees(chest, rng, config.detail)
    trees = Trees(
        arteries=trees.arteries.shifted(centre),
        veins=trees.veins.shifted(centre),
        airways=trees.airways.shifted(centre),
        airway_walls=trees.airway_walls.shifted(centre),
    )
    placer = NodulePlacer(fields, fine, trees.vessels, rng)
    if config.nodules is None:
        smallest = max(4.0, 2.0 * max(config.spacing_mm))
        placed = [placer.place_drawn(spec, smallest) for spec in draw_specs(rng, config.nodule_count, smallest)]
    else:
        placed = [placer.place(spec) for spec in config.nodules]
    benign = BenignFindings()
    if config.benign_findings:
        taken = [(nodule.centre_ras_mm, nodule.shape.reach_mm) for nodule in placed]
        benign = draw_benign(fields, fine, trees.vessels, taken, rng)
    scene = _scene(fields, fine, trees, placed, benign, contrast, rng)
    thickness = config.slice_thickness_mm or spacing_k
    profile = slice_profile(thickness, spacing_k / per_slice, per_slice)
    noise_hu = USUAL_NOISE_HU[config.kernel] if config.noise_hu is None else config.noise_hu
    scan = _Scan(scene, geometry, per_slice, profile, config.kernel, noise_hu, int(rng.integers(2**62)))
    header = {
        "Modality": "CT",
        "SliceThickness": f"{thickness:g}",
        "ConvolutionKernel": config.kernel.value,
        "BodyPartExamined": "CHEST",
    }
    image_hu, lungs, lobes = scan.run()
    return Phantom(
        volume=Volume(geometry=geometry, image_hu=image_hu, header=header),
        nodules=tuple(_truth(nodule, geometry, per_slice) for nodule in placed),
        lungs=lungs,
        lobes=lobes,
        vessels=_thick(scene.vessels_kji, per_slice),
    )


def finer_along_k(geometry: VolumeGeometry, parts: int) -> VolumeGeometry:
    """The same field of view with every slice cut into ``parts``."""
    affine = geometry.affine_ijk_to_ras_mm.copy()
    affine[:3, 2] /= parts
    affine[:3, 3] = geometry.ijk_to_ras((0, 0, -0.5 + 0.5 / parts))
    i, j, k = geometry.shape_ijk
    return VolumeGeometry(shape_ijk=(i, j, k * parts), affine_ijk_to_ras_mm=affine)


def _anatomy(chest: Chest, fine: VolumeGeometry, centre_mm: Reals, rng: np.random.Generator) -> CoarseFields:
    """Evaluate every surface on the coarse grid."""
    coarse_grain = SineField.draw(rng, count=7, wavelength_mm=(9, 40), amplitude=1.0)
    muscle_grain = SineField.draw(rng, count=5, wavelength_mm=(14, 60), amplitude=1.0)
    slope = float(rng.uniform(0.16, 0.34))

    def surfaces(x: Float, y: Float, z: Float) -> tuple[Float, ...]:
        px, py, pz = (v - np.float32(c) for v, c in zip((x, y, z), centre_mm, strict=True))
        at = chest.to_template(px, py, pz)
        body, cage = chest.body(*at), chest.cage(*at)
        right, left = chest.lungs(*at)
        rib, cartilage = ribs(*at, cage)
        vertebrae, disc, canal = spine(chest, *at)
        flat = flat_bones(*at, cage)
        bone = np.minimum(np.minimum(rib, vertebrae), flat)
        organ, offset = organs(chest, *at, muscle_grain)
        wall = chest_wall(*at, cage, body, muscle_grain)
        outside_cage = np.maximum(wall, -cage + 0.3)
        soft = np.minimum(np.minimum(outside_cage, organ), np.minimum(disc, cartilage))
        soft = np.minimum(soft, np.maximum(canal - 0.5, -50))
        offset = offset + 34.0 * (disc < 0) + 48.0 * (cartilage < 0) - 30.0 * (canal < 0)
        cortex = np.where(vertebrae < 1, 430, np.where(flat < rib, 560, 680)).astype(np.float32)
        oblique, horizontal = chest.fissures(*at)
        grain = coarse_grain(*at)
        gravity = -slope * at[1] + 12 * np.exp(np.minimum(np.maximum(right, left), 0) / 8)
        pool = blood_pool(chest, *at)
        return (
            body, right, left, bone, soft, offset, pool, cortex, oblique, horizontal, grain, gravity, table(px, py),
            px + 0 * py + 0 * pz, cage, np.zeros((), np.float32),
        )  # fmt: skip

    fields = evaluate(fine, _FIELDS, surfaces)
    fields.values[_FIELDS.index("texture")] = 1.6 * rng.standard_normal(fields.values.shape[1:], dtype=np.float32)
    for name in ("body", "right", "left", "soft", "bone", "oblique", "horizontal"):
        make_distance(fields, name)
    return fields


def _scene(
    fields: CoarseFields,
    fine: VolumeGeometry,
    trees: Trees,
    placed: list[PlacedNodule],
    benign: BenignFindings,
    contrast: bool,
    rng: np.random.Generator,
) -> Scene:
    """Draw the fine structures."""
    i, j, k = fine.shape_ijk
    vessels, air, walls = (np.zeros((k, j, i), dtype=np.uint8) for _ in range(3))
    draw_tubes(vessels, trees.vessels, fine)
    draw_tubes(air, trees.airways, fine)
    draw_tubes(walls, trees.airway_walls, fine)
    strands = [nodule.strands for nodule in placed if nodule.strands is not None]
    if benign.strands is not None:
        strands.append(benign.strands)
    if strands:
        draw_tubes(walls, Pieces.join(strands), fine)
    blood = float(rng.uniform(140, 260)) if contrast else float(rng.uniform(36, 48))
    return Scene(
        fields=fields,
        voxel_mm=float(np.mean(fine.spacing_mm)),
        vessels_kji=vessels,
        air_kji=air,
        walls_kji=walls,
        nodules=placed,
        benign=benign,
        blood_hu=blood,
        pool_hu=float(rng.uniform(0.6, 0.95)) * (blood - 45) if contrast else 0.0,
    )


class _Scan:
    """Paints and scans all slices, in chunks on a few threads."""

    def __init__(
        self,
        scene: Scene,
        geometry: VolumeGeometry,
        per_slice: int,
        profile: NDArray[np.float32],
        kernel: Kernel,
        noise_hu: float,
        seed: int,
    ) -> None:
        i, j, k = geometry.shape_ijk
        self._scene = scene
        self._per_slice = per_slice
        self._profile = profile
        self._noise_hu = noise_hu
        self._seed = seed
        self._scanner = Scanner.make((j, i), (geometry.spacing_mm[1], geometry.spacing_mm[0]), kernel)
        self._image = np.empty((k, j, i), dtype=np.int16)
        self._lungs = np.zeros((k, j, i), dtype=np.uint8)
        self._lobes = np.zeros((k, j, i), dtype=np.uint8)

    def run(self) -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.uint8]]:
        """Image, lungs and lobes, indexed [i, j, k]."""
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(self._chunk, range(0, len(self._image), _CHUNK_SLICES)))
        return self._image.transpose(2, 1, 0), self._lungs.transpose(2, 1, 0), self._lobes.transpose(2, 1, 0)

    def _chunk(self, first: int) -> None:
        """Slices ``first`` to ``first + _CHUNK_SLICES``."""
        last = min(first + _CHUNK_SLICES, len(self._image))
        sub_count = len(self._scene.vessels_kji)
        reach = (len(self._profile) - self._per_slice) // 2
        blurred: dict[int, Float] = {}
        for k in range(first, last):
            total = np.zeros(self._image.shape[1:], dtype=np.float32)
            for n, weight in enumerate(self._profile):
                sub = int(np.clip(k * self._per_slice - reach + n, 0, sub_count - 1))
                if sub not in blurred:
                    painted, at = self._scene.paint(sub)
                    blurred[sub] = self._scanner.blur(painted)
                    self._label(sub, at)
                total += weight * blurred[sub]
            for old in [sub for sub in blurred if sub < (k + 1) * self._per_slice - reach]:
                del blurred[old]
            total += self._noise(k)
            self._image[k] = np.clip(np.rint(total), _LOWEST_HU, 3071).astype(np.int16)

    def _noise(self, k: int) -> Float:
        """Noise of one slice; neighbours share some of it, as overlapping slices do."""
        white = self._scanner.white(self._seed, k)
        overlap = 0.25
        white = white + overlap * (self._scanner.white(self._seed, k - 1) + self._scanner.white(self._seed, k + 1))
        amplitude = np.float32(self._noise_hu / np.sqrt(1 + 2 * overlap**2))
        result: Float = self._scanner.texture(white) * amplitude * self._scene.noise_weight(k * self._per_slice)
        return result

    def _label(self, sub: int, at: dict[str, Float]) -> None:
        """Lungs and lobes of a slice, from its middle sub-slice."""
        k, part = divmod(sub, self._per_slice)
        if part != self._per_slice // 2:
            return
        right, left = at["right"] < 0, at["left"] < 0
        self._lungs[k] = np.where(right, 1, np.where(left, 2, 0))
        self._lobes[k] = np.where(right | left, lobe_number(right, at["oblique"], at["horizontal"]), 0)


def _thick(share_kji: NDArray[np.uint8], per_slice: int) -> NDArray[np.bool_]:
    """Voxels of whole slices that are mostly filled, indexed [i, j, k]."""
    if per_slice == 1:
        return (share_kji >= (FULL + 1) // 2).transpose(2, 1, 0)
    k, j, i = share_kji.shape
    mean = share_kji.reshape(k // per_slice, per_slice, j, i).mean(axis=1, dtype=np.float32)
    return np.asarray(mean >= FULL / 2).transpose(2, 1, 0)


def _truth(nodule: PlacedNodule, geometry: VolumeGeometry, per_slice: int) -> PhantomNodule:
    """A placed nodule on the scan's own grid."""
    box, fraction = nodule.box, nodule.fraction
    if per_slice > 1:
        first, last = box.start_ijk[2] // per_slice, -(-box.stop_ijk[2] // per_slice)
        whole = np.zeros((*fraction.shape[:2], (last - first) * per_slice), dtype=np.float32)
        offset = box.start_ijk[2] - first * per_slice
        whole[:, :, offset : offset + fraction.shape[2]] = fraction
        fraction = whole.reshape(*fraction.shape[:2], last - first, per_slice).mean(axis=3)
        box = IndexBox(start_ijk=(*box.start_ijk[:2], first), stop_ijk=(*box.stop_ijk[:2], last))
    volume = float(fraction.sum(dtype=np.float64)) * geometry.voxel_volume_mm3
    index = np.indices(fraction.shape).reshape(3, -1).astype(np.float64)
    centre_ijk = index @ fraction.reshape(-1) / fraction.sum(dtype=np.float64) + np.asarray(box.start_ijk)
    x, y, z = geometry.ijk_to_ras(centre_ijk)
    return PhantomNodule(
        box=box,
        mask=fraction >= 0.5,
        fraction=fraction,
        centre_ras_mm=(float(x), float(y), float(z)),
        volume_mm3=volume,
        diameter_mm=float((6 * volume / np.pi) ** (1 / 3)),
        kind=nodule.spec.kind,
        attachment=nodule.spec.attachment,
        margin=nodule.spec.margin,
    )
