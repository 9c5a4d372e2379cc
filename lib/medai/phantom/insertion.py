"""Puts a nodule taken from one scan into the lungs of another, real or phantom, so that no seam tells.

What is blended in is the share of each voxel that the nodule fills (``cutout``), resampled with the host's slice
profile and blurred to the host's sharpness. The host's own lung shows through wherever that share is less than one, its
vessels and bones stay where they are denser than the nodule, and the noise that the nodule hides is put back with the
host's own power spectrum, so that neither the noise's strength nor its texture changes at the rim.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medai.domain import NoduleKind, Volume
from medai.geometry import IndexBox, VolumeGeometry
from medai.phantom.config import Attachment
from medai.phantom.cutout import NoduleCutout, edge_width_mm
from medai.phantom.sites import Site, SiteFinder
from medai.phantom.texture import NoiseTexture

Float = NDArray[np.float32]
Rotation = NDArray[np.float64]

LARGEST_TILT_SPACING_MM = 1.6
"""Crops with slices further apart than this are turned about z only: tilted, their steps would show."""
TRIES = 24
PLACEMENTS = 4
DENSE_HU = -500.0
MOST_DENSE = 0.3
"""A nodule of which a larger share falls on vessels or wall would be hidden, and nobody could say it is there."""
SMALLEST_VOXELS = 0.8
"""A nodule that fills less than this many voxels of the host cannot be seen in it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InsertedNodule:
    """A nodule in its new place.

    Attributes:
        box: where ``mask`` and ``share`` lie in the host.
        mask: bool, the reader's outline there.
        share: float32, how much of each voxel was made nodule.
        centre_ras_mm: centroid of the outline.
        diameter_mm: of the sphere with the outline's volume.
        kind: attenuation type, None where it is not known.
        attachment: what it was placed against.
        case_id: of the crop it came from.
        patient_id: whose nodule it is.
    """

    box: IndexBox
    mask: NDArray[np.bool_]
    share: Float
    centre_ras_mm: tuple[float, float, float]
    diameter_mm: float
    kind: NoduleKind | None
    attachment: Attachment
    case_id: str
    patient_id: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Host:
    """A scan that nodules are put into; its image is changed in place.

    Attributes:
        volume: int16 HU, writable.
        sites: where there is room.
        noise: the scan's noise.
        edge_mm: width of its sharpest edges.
        slice_mm: thickness of a slice.
    """

    volume: Volume
    sites: SiteFinder
    noise: NoiseTexture
    edge_mm: float
    slice_mm: float
    inserted: list[InsertedNodule] = field(default_factory=list)

    @classmethod
    def prepare(
        cls, volume: Volume, lungs: NDArray[np.uint8], taken: tuple[tuple[tuple[float, float, float], float], ...] = ()
    ) -> Host:
        """Get a scan ready.

        Args:
            volume: the scan; it is copied.
            lungs: on its grid, 0 outside the lungs.
            taken: centres (RAS mm) and diameters (mm) of findings to stay clear of.
        """
        image = np.array(volume.image_hu, dtype=np.int16, order="F")
        own = Volume(geometry=volume.geometry, image_hu=image, case_id=volume.case_id, header=volume.header)
        sites = SiteFinder(own, lungs)
        for centre, diameter_mm in taken:
            sites.take(np.asarray(centre), diameter_mm / 2)
        return cls(
            volume=own,
            sites=sites,
            noise=NoiseTexture.measure(own),
            edge_mm=sites.edge_mm(edge_width_mm),
            slice_mm=float(volume.header.get("SliceThickness", volume.geometry.spacing_mm[2])),
        )

    def insert(self, cutout: NoduleCutout, rng: np.random.Generator, *, scale: float = 1.0) -> InsertedNodule | None:
        """Put a nodule where one of its kind may lie.

        Args:
            cutout: what to insert.
            rng: place and orientation.
            scale: enlargement.

        Returns:
            The nodule in place, None where no place was found or the host's voxels are too coarse for it.
        """
        fitted = None
        for _ in range(PLACEMENTS):
            placement = self._place(cutout, rng, scale)
            if placement is None:
                return None
            fitted = self._fit(cutout, *placement, scale)
            if fitted is not None:
                break
        if fitted is None:
            return None
        box, share, tissue_hu, outline = fitted
        filled = float(outline.sum())
        self._blend(box, share, tissue_hu, rng)
        centre_ijk = np.indices(outline.shape).reshape(3, -1) @ outline.reshape(-1) / filled + np.asarray(box.start_ijk)
        x, y, z = (float(c) for c in self.volume.geometry.ijk_to_ras(centre_ijk))
        nodule = InsertedNodule(
            box=box,
            mask=outline >= min(0.5, 0.8 * float(outline.max())),
            share=share,
            centre_ras_mm=(x, y, z),
            diameter_mm=float((6 * filled * self.volume.geometry.voxel_volume_mm3 / np.pi) ** (1 / 3)),
            kind=cutout.kind,
            attachment=cutout.attachment,
            case_id=cutout.case_id,
            patient_id=cutout.patient_id,
        )
        self.sites.take(np.array([x, y, z]), 0.6 * scale * cutout.diameter_mm)
        self.inserted.append(nodule)
        return nodule

    def _fit(
        self, cutout: NoduleCutout, site: Site, turn: Rotation, scale: float
    ) -> tuple[IndexBox, Float, Float, Float] | None:
        """The cutout at a site; None where too little of it is left, or it would be hidden in something dense."""
        box, share, tissue_hu, outline = carried(
            cutout,
            self.volume.geometry,
            site.centre_ras_mm,
            turn,
            scale=scale,
            slice_mm=self.slice_mm,
            edge_mm=self.edge_mm,
        )
        if box.is_empty:
            return None
        room = self.sites.coverage(box)
        share, outline = share * room, outline * room
        filled = float(outline.sum())
        if filled < SMALLEST_VOXELS or not np.any(outline >= 0.4):
            return None
        host_hu = self.volume.image_hu[box.slices].astype(np.float32)
        dense = float(outline[host_hu > DENSE_HU].sum()) / filled
        return None if dense > MOST_DENSE else (box, share, tissue_hu, outline)

    def _place(self, cutout: NoduleCutout, rng: np.random.Generator, scale: float) -> tuple[Site, Rotation] | None:
        """A site and a rotation that go together."""
        radius_mm = 0.5 * scale * cutout.diameter_mm
        may_tilt = cutout.spacing_mm[2] <= LARGEST_TILT_SPACING_MM
        if cutout.contact_ras is not None:
            for site in self.sites.on_wall(rng, radius_mm, TRIES):
                turn = turn_onto(cutout.contact_ras, site.outward_ras, rng, may_tilt=may_tilt)
                if turn is not None:
                    # The wall lies a little inside what was outlined: no slit of air stays between.
                    inward = (scale * cutout.contact_mm - 0.7) * site.outward_ras
                    return Site(centre_ras_mm=site.centre_ras_mm - inward, outward_ras=site.outward_ras), turn
            return None
        if cutout.attachment is Attachment.JUXTAVASCULAR:
            return self._beside_vessel(cutout, rng, scale, may_tilt=may_tilt)
        return self._free_in_lung(rng, radius_mm, may_tilt=may_tilt)

    def _free_in_lung(
        self, rng: np.random.Generator, radius_mm: float, *, may_tilt: bool
    ) -> tuple[Site, Rotation] | None:
        site = self.sites.in_lung(rng, radius_mm, TRIES)
        return None if site is None else (site, random_turn(rng, may_tilt=may_tilt))

    def _beside_vessel(
        self, cutout: NoduleCutout, rng: np.random.Generator, scale: float, *, may_tilt: bool
    ) -> tuple[Site, Rotation] | None:
        """Of many places and rotations the one where the vessel on the nodule meets a vessel of the host."""
        spacing = np.asarray(cutout.spacing_mm)
        stub = np.argwhere((cutout.share > 0.35) & (cutout.outline == 0))
        if len(stub) < 5:
            return self._free_in_lung(rng, 0.5 * scale * cutout.diameter_mm, may_tilt=may_tilt)
        stub = stub[rng.permutation(len(stub))[:200]]
        offsets = scale * ((stub - cutout.centre_ijk) * spacing @ cutout.directions_ras.T)
        best: tuple[float, Site, Rotation] | None = None
        for site in self.sites.beside_vessels(rng, 0.5 * scale * cutout.diameter_mm, TRIES):
            for _ in range(3):
                turn = random_turn(rng, may_tilt=may_tilt)
                score = self.sites.brightness(site.centre_ras_mm + offsets @ turn.T)
                if best is None or score > best[0]:
                    best = (score, site, turn)
        return None if best is None else best[1:]

    def _blend(self, box: IndexBox, share: Float, tissue_hu: Float, rng: np.random.Generator) -> None:
        """Mix the nodule into the image and put the noise back that it hides."""
        where = self.volume.image_hu[box.slices]
        host_hu = where.astype(np.float32)
        sigma = [0.8 / s for s in self.volume.geometry.spacing_mm]
        calm_hu = ndimage.gaussian_filter(host_hu, sigma)
        share = share * np.clip((tissue_hu + 90 - calm_hu) / 120, 0, 1)
        noise_hu = self.noise.sample(rng, box.shape_ijk) * self.sites.noise_hu(box, self.noise)
        hidden = np.sqrt(np.clip(1 - np.square(1 - share), 0, 1))
        mixed = (1 - share) * host_hu + share * tissue_hu + hidden * noise_hu
        low, high = -1024, 3071
        where[...] = np.clip(np.rint(mixed), low, high).astype(np.int16)


def random_turn(rng: np.random.Generator, *, may_tilt: bool) -> Rotation:
    """A rotation, mirrored half the time: any where tilting is allowed, else about z, upside down half the time."""
    if may_tilt:
        turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
        return np.asarray(turn * rng.choice([-1.0, 1.0], 3), dtype=np.float64)
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]])
    return np.asarray(turn * rng.choice([-1.0, 1.0], (3, 1)), dtype=np.float64)


def turn_onto(
    old: NDArray[np.float64], new: NDArray[np.float64], rng: np.random.Generator, *, may_tilt: bool
) -> Rotation | None:
    """A rotation that brings one unit vector onto another; None where that needs a tilt and none is allowed."""
    if may_tilt:
        frame_old, frame_new = _frame(old, rng), _frame(new, rng)
        return np.asarray(frame_new @ frame_old.T, dtype=np.float64)
    flip = -1.0 if old[2] * new[2] < 0 else 1.0
    if abs(flip * old[2] - new[2]) > 0.35:
        return None
    angle = np.arctan2(new[1], new[0]) - np.arctan2(old[1], old[0])
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, flip]])
    return np.asarray(turn, dtype=np.float64)


def _frame(first: NDArray[np.float64], rng: np.random.Generator) -> Rotation:
    """An orthonormal frame whose first column is ``first``, the others at random."""
    other = np.cross(first, rng.standard_normal(3))
    other /= np.linalg.norm(other)
    return np.stack([first, other, np.cross(first, other)], axis=1)


def carried(
    cutout: NoduleCutout,
    geometry: VolumeGeometry,
    centre_ras_mm: NDArray[np.float64],
    turn: Rotation,
    *,
    scale: float,
    slice_mm: float,
    edge_mm: float,
) -> tuple[IndexBox, Float, Float, Float]:
    """A cutout on the host's grid.

    Args:
        cutout: what is carried.
        geometry: the host's grid.
        centre_ras_mm: where its centre goes.
        turn: 3×3, applied to offsets from the centre.
        scale: enlargement.
        slice_mm: thickness of the host's slices; what the cutout's own slices have not averaged yet is averaged here.
        edge_mm: width of the host's sharpest edges; the cutout is blurred to it, or sharpened as far as it bears.

    Returns:
        The box, clipped to the host, and in it share, tissue HU and outline (all float32).
    """
    spacing = np.asarray(geometry.spacing_mm)
    reach = np.argwhere(cutout.share > 0.02)
    radius = scale * np.max(np.linalg.norm((reach - cutout.centre_ijk) * cutout.spacing_mm, axis=1), initial=1.0)
    middle = geometry.ras_to_ijk(centre_ras_mm)
    own_edge_mm = scale * cutout.edge_mm
    blur_mm = float(np.sqrt(max(0.0, edge_mm**2 - own_edge_mm**2)) / 2.5)
    span = (radius + 2 * blur_mm) / spacing + 2
    low, high = np.floor(middle - span).astype(int), np.ceil(middle + span).astype(int) + 1
    box = IndexBox(start_ijk=tuple(low.tolist()), stop_ijk=tuple(high.tolist())).clip(geometry.shape_ijk)
    if box.is_empty:
        empty = np.zeros((0, 0, 0), dtype=np.float32)
        return box, empty, empty, empty
    slab_mm = float(np.sqrt(max(slice_mm**2 - (scale * cutout.spacing_mm[2]) ** 2, 0.0)))
    parts = max(1, int(np.ceil(slab_mm / 0.5)))
    back = np.linalg.inv(cutout.directions_ras) @ turn.T @ (geometry.directions_ras * spacing)
    back = back / (scale * np.asarray(cutout.spacing_mm))[:, None]
    weighted = cutout.share * cutout.tissue_hu
    sums = np.zeros((3, *box.shape_ijk), dtype=np.float32)
    grid = np.indices(box.shape_ijk, dtype=np.float64).reshape(3, -1)
    grid += (np.asarray(box.start_ijk) - middle)[:, None]
    for n in range(parts):
        shift = ((n + 0.5) / parts - 0.5) * slab_mm / spacing[2]
        at = back @ (grid + np.array([[0.0], [0.0], [shift]])) + cutout.centre_ijk[:, None]
        for slot, source in enumerate((cutout.share, weighted, cutout.outline)):
            sums[slot] += ndimage.map_coordinates(source, at, order=1, cval=0.0).reshape(box.shape_ijk)
    sums /= parts
    if blur_mm > 0.05:
        for slot in (0, 1):
            sums[slot] = ndimage.gaussian_filter(sums[slot], (blur_mm / spacing[0], blur_mm / spacing[1], 0))
    elif own_edge_mm > 1.15 * edge_mm:
        gain = min(0.9, own_edge_mm / edge_mm - 1.0)
        for slot in (0, 1):
            soft = ndimage.gaussian_filter(sums[slot], (0.7 / spacing[0], 0.7 / spacing[1], 0))
            sums[slot] = np.maximum(sums[slot] + gain * (sums[slot] - soft), 0)
    tissue_hu = sums[1] / np.maximum(sums[0], 1e-3)
    tissue_hu = np.where(sums[0] > 1e-3, tissue_hu, 0).astype(np.float32)
    tissue_hu = np.clip(tissue_hu, 0, float(cutout.tissue_hu.max()))
    return box, np.clip(sums[0], 0, 1), tissue_hu, np.clip(sums[2], 0, 1)
