"""The shape of one person's chest: body outline, lungs, lobes, mediastinum, heart, diaphragm.

All surfaces live in a template frame: millimetres, x to the patient's right, y to the front, z to the head, the origin
at the tracheal carina. A person differs from the template by a size and a smooth warp; ``to_template`` and
``from_template`` go between the patient (RAS, carina at the origin) and the template.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.phantom.fields import Float, Reals, SineField, ellipsoid, knots, oval, smooth_max, smooth_min, tube

FIELD_CENTRE_MM = (0.0, -8.0, -33.0)
"""Template point that a scan is centred on: half way between apices and costophrenic sulci."""

AORTA_MM = ((2, 14, -42), (10, 24, -12), (8, 26, 10), (0, 16, 30), (-10, -6, 37), (-19, -28, 30), (-22, -40, 8))
DESCENDING_MM = ((-22, -40, 8), (-21, -43, -40), (-16, -44, -100), (-8, -44, -160), (-6, -44, -220))
TRACHEA_MM = ((0, -14, 140), (1, -14, 70), (2, -12, 20), (0, -12, 0))
RIGHT_BRONCHUS_MM = ((0, -12, 0), (16, -13, -12), (27, -15, -22), (36, -17, -33))
LEFT_BRONCHUS_MM = ((0, -12, 0), (-18, -13, -14), (-34, -17, -24), (-41, -20, -34))

RIB_PITCH_MM = 24.0

Points = tuple[Float, Float, Float]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chest:
    """One person.

    Attributes:
        size: patient millimetres per template millimetre along x, y, z.
        warp: three fields, the displacement along x, y, z in template millimetres.
        outline: fine irregularity of the lungs' surface, mm.
        fat_mm: extra thickness of the fat under the skin.
        breast: 0–1.
        heart_size: factor.
        dome_mm: heights of the right and left diaphragm domes.
    """

    size: NDArray[np.float32]
    warp: tuple[SineField, SineField, SineField]
    outline: SineField
    fat_mm: float
    breast: float
    heart_size: float
    dome_mm: tuple[float, float]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Chest:
        """Draw a person."""
        dome = rng.uniform(-112, -92)
        return cls(
            size=(rng.uniform(0.94, 1.06) * rng.uniform(0.97, 1.03, 3)).astype(np.float32),
            warp=(
                SineField.draw(rng, count=4, wavelength_mm=(90, 260), amplitude=2.4),
                SineField.draw(rng, count=4, wavelength_mm=(90, 260), amplitude=2.4),
                SineField.draw(rng, count=4, wavelength_mm=(90, 260), amplitude=3.0),
            ),
            outline=SineField.draw(rng, count=6, wavelength_mm=(24, 75), amplitude=1.15),
            fat_mm=float(rng.uniform(-4, 10)),
            breast=float(rng.uniform(0.5, 1.0)) if rng.random() < 0.45 else 0.0,
            heart_size=float(rng.uniform(0.92, 1.1)),
            dome_mm=(float(dome), float(dome - rng.uniform(4, 16))),
        )

    def to_template(self, x: Float, y: Float, z: Float) -> Points:
        """Patient to template."""
        x, y, z = x / self.size[0], y / self.size[1], z / self.size[2]
        return x + self.warp[0](x, y, z), y + self.warp[1](x, y, z), z + self.warp[2](x, y, z)

    def from_template(self, points_mm: Reals) -> Float:
        """Template points (n, 3) to patient points, by fixed-point iteration."""
        goal: Float = points_mm.astype(np.float32)
        guess = goal.copy()
        for _ in range(4):
            guess = goal - np.stack([field(guess[:, 0], guess[:, 1], guess[:, 2]) for field in self.warp], axis=1)
        return guess * self.size

    def body(self, x: Float, y: Float, z: Float) -> Float:
        """The skin."""
        levels = [-230, -150, -90, -30, 20, 60, 95, 140]
        half_x = knots(z, levels, [146, 152, 157, 161, 166, 173, 180, 184]) + self.fat_mm
        half_y = knots(z, levels, [116, 117, 118, 117, 114, 107, 99, 92]) + 0.8 * self.fat_mm
        flat_back = np.maximum(-y - 60, 0) * 0.05
        skin = oval(x, y + knots(z, levels, [6, 6, 6, 7, 11, 17, 23, 28]) - flat_back, half_x, half_y, 2.35)
        if self.breast:
            for side in (-1, 1):
                radii = (52, 26 + 14 * self.breast, 55)
                skin = smooth_min(skin, ellipsoid(x, y, z, (side * 78, 94, -42), radii), 18)
        return skin

    def cage(self, x: Float, y: Float, z: Float) -> Float:
        """The inner face of the rib cage."""
        levels = [-230, -170, -120, -60, -10, 30, 60, 85, 105, 130]
        half_x = knots(z, levels, [122, 127, 130, 130, 124, 113, 100, 86, 72, 62])
        half_y = knots(z, levels, [88, 91, 94, 94, 91, 84, 74, 62, 52, 46])
        return oval(x, y - knots(z, levels, [0, 1, 2, 3, 2, -4, -12, -20, -28, -34]), half_x, half_y, 2.35)

    def heart(self, x: Float, y: Float, z: Float) -> Float:
        """The pericardium: ventricles, right atrium, left atrium."""
        s = self.heart_size
        cx, cy, cz = x + 16, y - 30, z + 60
        along = -0.72 * cx + 0.40 * cy - 0.56 * cz
        across = 0.49 * cx + 0.87 * cy
        up = 0.49 * cx * -1.0 + 0.27 * cy + 0.82 * cz
        surface = ellipsoid(along, across, up, (0, 0, 0), (60 * s, 45 * s, 47 * s))
        surface = smooth_min(surface, ellipsoid(x, y, z, (24, 16, -50), (27 * s, 34 * s, 38 * s)), 14)
        return smooth_min(surface, ellipsoid(x, y, z, (0, -8, -46), (36, 19, 22)), 8)

    def diaphragm(self, x: Float, y: Float, z: Float) -> Float:
        """Negative below the domes."""
        right = x > 0
        top = np.where(right, self.dome_mm[0], self.dome_mm[1]).astype(np.float32)
        rho = np.sqrt(((np.abs(x) - 62) / 76) ** 2 + ((y - 12) / 98) ** 2)
        height = top + 6 - 62 * rho**2.2 + 0.28 * np.minimum(y, 0)
        result: Float = ((z - height) * 0.8).astype(np.float32)
        return result

    def vessels_core(self, x: Float, y: Float, z: Float) -> Float:
        """Aorta with its arch."""
        surface: Float = np.full(x.shape, 99.0, dtype=np.float32)
        near = (x > -60) & (x < 50) & (y > -85) & (y < 65)
        at = (x[near], y[near], z[near])
        core = tube(*at, AORTA_MM, (15, 15, 15, 14.5, 14, 13.5, 13))
        surface[near] = np.minimum(core, tube(*at, DESCENDING_MM, (13, 12.5, 12, 11, 11)))
        return surface

    def mediastinum(self, x: Float, y: Float, z: Float) -> Float:
        """What lies between the lungs, with its fat; negative inside."""
        levels = [-230, -60, -30, 0, 25, 50, 85, 140]
        column = oval(
            x,
            y - knots(z, levels, [0, 14, 16, 14, 12, 8, 0, -4]),
            knots(z, levels, [16, 26, 30, 31, 31, 33, 36, 40]),
            knots(z, levels, [30, 38, 42, 45, 47, 48, 46, 44]),
            2.3,
        )
        septum = np.maximum(np.abs(x + 3) - 2.2, 18 - y) + np.maximum(np.abs(z + 10) - 70, 0) * 0.5
        surface = smooth_min(column, septum, 9)
        retrosternal = np.abs(x) * 0.8 + (96 - y) * 1.0 - 22 - np.maximum(-z - 60, 0) * 0.25
        surface = smooth_min(surface, retrosternal.astype(np.float32), 10)
        surface = smooth_min(surface, oval(x, y + 36, np.float32(17), np.float32(24)), 8)
        surface = smooth_min(surface, self.heart(x, y, z) - 3.5, 8)
        surface = smooth_min(surface, self.vessels_core(x, y, z) - 1.2, 6)
        for centre, radii in (((36, -9, -24), (15, 17, 25)), ((-37, -10, -18), (14, 16, 23))):
            surface = smooth_min(surface, ellipsoid(x, y, z, centre, radii), 9)
        behind = y - self.spine_y(z)
        surface = smooth_min(surface, oval(x, behind - 2, np.float32(22), np.float32(20), 2.3), 8)
        # Behind the vertebral bodies the arches and the ribs' necks fill a wedge that widens to the back.
        wedge = (np.abs(x) - 19 + 0.95 * np.minimum(behind + 12, 0)) * 0.8
        return smooth_min(surface, np.maximum(wedge, behind + 8), 10)

    def spine_y(self, z: Float) -> Float:
        """Where the middle of the vertebral bodies lies, y over z (kyphosis)."""
        result: Float = (-62 + 9 * ((z + 35) / 130) ** 2).astype(np.float32)
        return result

    def lungs(self, x: Float, y: Float, z: Float) -> tuple[Float, Float]:
        """Right and left lung."""
        levels = [-20, 20, 45, 65, 82, 96, 104, 112]
        half_x = knots(z, levels, [110, 82, 62, 49, 37, 23, 9, 0.2])
        half_y = knots(z, levels, [140, 102, 80, 62, 47, 29, 11, 0.2])
        turn = np.arctan2(np.abs(x), -(y + 4))
        wall = self.cage(x, y, z) + 0.7 * np.cos((88 - z - rib_fall(turn)) * np.float32(2 * np.pi / RIB_PITCH_MM))
        wall = smooth_max(wall, -self.mediastinum(x, y, z), 7)
        wall = smooth_max(wall, -self.diaphragm(x, y, z), 9) + self.outline(x, y, z)
        apex = smooth_max(oval(np.abs(x) - np.float32(46), y + 22, half_x, half_y, 2.2), z - 106, 12)
        both = smooth_max(wall, apex, 10)
        return np.maximum(both, 1.0 - x), np.maximum(both, x + 1.0)

    def fissures(self, x: Float, y: Float, z: Float) -> tuple[Float, Float]:
        """Oblique fissure (positive in the lower lobe) and horizontal fissure (positive in the right upper lobe)."""
        left = x < 0
        bow = 0.0016 * (np.abs(x) - 60) ** 2
        slope = np.where(left, 1.02, 0.92).astype(np.float32)
        oblique = (-(y + 6) * slope * 0.9 - (z + 40) * 0.72 - bow + np.where(left, 8, 0)) * 0.8
        horizontal = z + 26 - 0.0022 * (y - 40) ** 2 + 0.08 * (x - 60)
        return oblique.astype(np.float32), horizontal.astype(np.float32)

    def lobes(self, x: Float, y: Float, z: Float) -> NDArray[np.uint8]:
        """Lobe a point of the lungs belongs to: 1 right upper, 2 middle, 3 right lower, 4 left upper, 5 left lower."""
        oblique, horizontal = self.fissures(x, y, z)
        return lobe_number(x > 0, oblique, horizontal)


def rib_fall(turn: Reals) -> Float:
    """How far below its head a rib runs, over the angle from the back in radians: falls at the side, rises in front."""
    falls: Reals = 74 * np.sin(np.minimum(turn, 2.25) / 2) ** 2 - 26 * np.maximum(turn - 2.25, 0)
    return falls.astype(np.float32)


def lobe_number(right: NDArray[np.bool_], oblique: Float, horizontal: Float) -> NDArray[np.uint8]:
    """Lobe number from the side and the fissures' surfaces."""
    upper = np.where(right, np.where(horizontal > 0, 1, 2), 4)
    return np.where(oblique > 0, np.where(right, 3, 5), upper).astype(np.uint8)
