"""From surfaces and shares to Hounsfield units, a slice at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medai.domain import NoduleKind
from medai.phantom.benign import BenignBody, BenignFindings
from medai.phantom.fields import Float, coverage
from medai.phantom.grid import CoarseFields
from medai.phantom.nodules import PlacedNodule
from medai.phantom.tissue import table_attenuation
from medai.phantom.tubes import FULL

FAT_HU, MUSCLE_HU, LUNG_HU, AIR_HU = -104.0, 52.0, -878.0, -1000.0
CORTEX_MM = 1.25


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """Everything needed to paint one slice of the painting grid.

    Attributes:
        fields: anatomy on the coarse grid.
        voxel_mm: width over which edges share a voxel.
        vessels_kji: bytes, share of vessels.
        air_kji: bytes, share of air in bronchi.
        walls_kji: bytes, share of bronchi with their walls.
        nodules: in the painting grid.
        benign: what only looks like nodules.
        blood_hu: attenuation of blood in the lungs' vessels.
        pool_hu: what contrast medium adds to the heart and great vessels.
    """

    fields: CoarseFields
    voxel_mm: float
    vessels_kji: NDArray[np.uint8]
    air_kji: NDArray[np.uint8]
    walls_kji: NDArray[np.uint8]
    nodules: Sequence[PlacedNodule]
    benign: BenignFindings
    blood_hu: float
    pool_hu: float

    def paint(self, k: int) -> tuple[Float, dict[str, Float]]:
        """Slice ``k`` in HU indexed [j, i], and the fields it was painted from."""
        at = self.fields.plane(k)
        lung = coverage(np.minimum(at["right"], at["left"]), self.voxel_mm)
        wall_hu = self._surroundings(at)
        lung_hu = self._parenchyma(at)
        vessels = self.vessels_kji[k].astype(np.float32) * np.float32(1 / FULL)
        walls = self.walls_kji[k].astype(np.float32) * np.float32(1 / FULL)
        air = self.air_kji[k].astype(np.float32) * np.float32(1 / FULL)
        for around in (wall_hu, lung_hu):
            np.add(around, vessels * (self.blood_hu - around), out=around)
            np.add(around, walls * (1 - vessels) * (20.0 - around), out=around)
            np.add(around, air * (-985.0 - around), out=around)
        for body in self.benign.bodies:
            self._add_benign(body, k, lung, lung_hu, at["texture"])
        for nodule in self.nodules:
            self._add_nodule(nodule, k, lung, lung_hu, at["texture"])
        wall_hu += lung * (lung_hu - wall_hu)
        return wall_hu, at

    def noise_weight(self, k: int) -> Float:
        """How strong noise is on slice ``k``, 1 in the middle of the body: less towards the skin, least in air."""
        depth = -self.fields.plane_of("body", k)
        result: Float = 0.45 + 0.55 * np.clip((depth + 30) / 110, 0, 1)
        return result

    def _surroundings(self, at: dict[str, Float]) -> Float:
        """Everything but the lungs."""
        width, texture = self.voxel_mm, at["texture"]
        body = coverage(at["body"], width)
        soft = coverage(at["soft"], width)
        skin = 0.7 * coverage(np.abs(at["body"] + 0.8) - 0.8, width)
        fat = FAT_HU + 9 * texture + 14 * np.maximum(at["grain"], 0)
        muscle = MUSCLE_HU + at["offset"] + 6 * texture + 7 * at["grain"] + self.pool_hu * at["pool"]
        hu = fat + np.maximum(soft, skin) * (muscle - fat)
        bone = coverage(at["bone"], width)
        cortex = coverage(np.abs(at["bone"] + CORTEX_MM / 2) - CORTEX_MM / 2, width)
        marrow = 165 + 65 * texture + 40 * at["grain"]
        hu += bone * (marrow - hu)
        hu += cortex * (at["cortex"] - hu)
        outside = AIR_HU + table_attenuation(at["table"], at["across"])
        result: Float = outside + body * (hu - outside)
        return result

    def _parenchyma(self, at: dict[str, Float]) -> Float:
        """Lung between vessels: heavier at the back, mottled, with faint fissures."""
        hu = LUNG_HU + at["gravity"] + 15 * at["texture"] + 10 * at["grain"]
        near = np.where((at["across"] > 0) & (at["oblique"] < 0), np.abs(at["horizontal"]), 99)
        distance = np.minimum(np.abs(at["oblique"]), near)
        result: Float = hu + np.clip(1.1 - distance, 0, 1) * self.benign.fissure_hu
        return result

    def _add_benign(self, body: BenignBody, k: int, lung: Float, lung_hu: Float, texture: Float) -> None:
        """Blend one benign body into the lungs' attenuation, in place; denser things stay."""
        start, stop = body.box.start_ijk, body.box.stop_ijk
        if start[2] <= k < stop[2]:
            where = (slice(start[1], stop[1]), slice(start[0], stop[0]))
            share = np.clip(body.fraction[:, :, k - start[2]].T / np.maximum(lung[where], 1e-3), 0, 1)
            target = lung_hu[where]
            target += share * np.maximum(body.attenuation_hu + 12 * texture[where] - target, 0)

    def _add_nodule(self, nodule: PlacedNodule, k: int, lung: Float, lung_hu: Float, texture: Float) -> None:
        """Blend one nodule into the lungs' attenuation, in place."""
        start, stop = nodule.box.start_ijk, nodule.box.stop_ijk
        if not start[2] <= k < stop[2]:
            return
        where = (slice(start[1], stop[1]), slice(start[0], stop[0]))
        fraction = nodule.fraction[:, :, k - start[2]].T
        if not fraction.any():
            return
        share = np.clip(fraction / np.maximum(lung[where], 1e-3), 0, 1)
        target, grain = lung_hu[where], texture[where]
        if nodule.spec.kind is NoduleKind.SOLID:
            target += share * (nodule.body_hu + 10 * grain - target)
            return
        soft_edge = np.minimum(share, ndimage.gaussian_filter(share, 0.7 / self.voxel_mm))
        haze = nodule.body_hu + 28 * grain
        target += soft_edge * np.maximum(haze - target, 0)
        if nodule.core is not None:
            core = nodule.core[:, :, k - start[2]].T
            target += core * np.maximum(nodule.core_hu + 12 * grain - target, 0)
