"""What surrounds the lungs: bones, muscles, organs, the table. Implicit surfaces in ``anatomy``'s template frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medai.phantom.anatomy import RIB_PITCH_MM, Chest, rib_fall
from medai.phantom.fields import Float, SineField, ellipsoid, knots, oval, smooth_max, smooth_min, tube

RIB_END_DEGREES = np.array([150, 180, 180, 180, 180, 180, 180, 146, 138, 128, 100, 74], dtype=np.float32)


def ribs(x: Float, y: Float, z: Float, cage: Float) -> tuple[Float, Float]:
    """All ribs at once: bone, and the cartilage that joins it to the sternum.

    A rib runs round the cage at a fixed depth; its height falls from the spine to the side and rises again to the
    sternum. For each point the nearest rib is found by rounding.
    """
    turn = np.arctan2(np.abs(x), -(y + 4)).astype(np.float32)
    order = (88 - z - rib_fall(turn)) / RIB_PITCH_MM
    number = np.clip(np.rint(order), 0, 11)
    height = (order - number) * RIB_PITCH_MM * 0.86
    u, v = (cage - 6.5) / 3.7, height / 6.3
    level = np.sqrt(u * u + v * v)
    slope = np.sqrt((u / 3.7) ** 2 + (v / 6.3) ** 2)
    rib = (level * (level - 1) / np.maximum(slope, 1e-3)).astype(np.float32)
    rib = np.maximum(rib, 26 - np.abs(x) - np.maximum(y, 0))
    end = np.deg2rad(RIB_END_DEGREES)[number.astype(np.uint8)]
    bone_end = np.minimum(end, np.float32(2.35))
    return np.maximum(rib, (turn - bone_end) * 95), np.maximum(
        np.maximum(rib, (bone_end - turn) * 95), (turn - end) * 95
    )


def spine(chest: Chest, x: Float, y: Float, z: Float) -> tuple[Float, Float, Float]:
    """Vertebrae (bone), discs, and the spinal canal."""
    middle = y - chest.spine_y(z)
    height = (z + 12 + RIB_PITCH_MM / 2) % RIB_PITCH_MM - RIB_PITCH_MM / 2
    waist = 1 - 0.10 * np.cos(height * np.float32(np.pi / 11))
    outline = oval(x, middle, 18.5 * waist, 15.5 * waist, 2.3)
    body = smooth_max(outline, np.abs(height) - 9.3, 3)
    disc = np.maximum(outline + 0.8, 9.6 - np.abs(height))
    back = middle + 23
    canal = oval(x, back, np.float32(9), np.float32(7.5))
    arch_height = height + 2
    lamina = np.maximum(np.abs(canal - 3.2) - 2.6, np.abs(arch_height) - 8.5 + np.maximum(back, 0) * 0.35)
    sloping = z + 12 - 0.75 * (back + 12)
    sloping = (sloping + RIB_PITCH_MM / 2) % RIB_PITCH_MM - RIB_PITCH_MM / 2
    process = np.maximum(np.maximum(np.abs(x) - 2.7, np.abs(back + 24) - 14), np.abs(sloping) - 8)
    reach = np.clip(np.abs(x), 11, 36)
    lateral = np.sqrt((np.abs(x) - reach) ** 2 + (back + 3 + (reach - 11) * 0.35) ** 2 + arch_height**2) - 4.8
    bone = smooth_min(smooth_min(body, lamina, 2), smooth_min(process, lateral, 2), 3)
    bone = np.maximum(bone, -canal)
    return bone.astype(np.float32), disc.astype(np.float32), canal


def flat_bones(x: Float, y: Float, z: Float, cage: Float) -> Float:
    """Sternum, shoulder blades and collar bones."""
    half = knots(z, [-80, -60, -20, 30, 40, 52, 72], [8, 15, 17, 13, 15, 27, 24])
    sternum = smooth_max(np.abs(cage - 10) - 5.2, np.abs(x) - half, 4)
    sternum = np.maximum(np.maximum(sternum, np.abs(z + 4) - 76), 40 - y)
    turn = np.arctan2(np.abs(x), -(y + 4)).astype(np.float32)
    width = knots(z, [-85, -60, 0, 45, 75], [0, 16, 34, 42, 30])
    blade = np.maximum(np.abs(turn - 0.98) * 125 - width, np.abs(z - 0) - 82)
    depth = cage - 23 - 6 * np.cos((turn - 0.98) * 4)
    thick = 2.0 + 3.2 * np.exp(-(((turn - 1.25) / 0.10) ** 2))
    scapula = smooth_max(np.abs(depth) - thick, blade, 3)
    collar: Float = np.full(x.shape, 99.0, dtype=np.float32)
    near = (z > 30) & (y > -40)
    path = ((14, 66, 66), (50, 58, 78), (95, 34, 92), (140, 8, 108))
    collar[near] = tube(np.abs(x[near]), y[near], z[near], path, (7.5, 5.5, 5, 6))
    return np.minimum(np.minimum(sternum, scapula), collar).astype(np.float32)


def chest_wall(x: Float, y: Float, z: Float, cage: Float, body: Float, grain: SineField) -> Float:
    """Muscles of the wall with the fat planes between them."""
    turn = np.arctan2(np.abs(x), -(y + 4)).astype(np.float32)
    at = np.deg2rad([0, 25, 50, 80, 105, 130, 155, 180]).astype(np.float32)
    high = np.interp(turn, at, [36, 34, 36, 34, 22, 26, 20, 8]).astype(np.float32)
    low = np.interp(turn, at, [36, 30, 16, 15, 13, 11, 11, 8]).astype(np.float32)
    share = np.clip((z + 70) / 70, 0, 1)
    bumpy = grain(x, y, z)
    muscle = cage - (low + (high - low) * share) + 1.8 * bumpy
    back = np.clip((turn - 0.35) / 0.3, 0, 1)
    for depth, width in ((14.5, 1.2), (25.5, 0.9)):
        sheet = (width + 2) * back - 2 - np.abs(cage - depth - 2.4 * bumpy) * 0.8
        muscle = np.maximum(muscle, sheet + 0.7 * bumpy)
    between = 0.9 - np.abs(cage - 1.4)
    muscle = np.maximum(muscle, between * 0.6)
    return smooth_max(muscle, body + 5.0 - 2.0 * bumpy, 4).astype(np.float32)


def organs(chest: Chest, x: Float, y: Float, z: Float, grain: SineField) -> tuple[Float, Float]:
    """Soft organs inside the cage: surface, and how far their attenuation lies from muscle's (HU)."""
    wobble = grain(x, y, z)
    heart = chest.heart(x, y, z)
    aorta = chest.vessels_core(x, y, z)
    surface = np.minimum(heart + 2.2 + 1.4 * wobble, aorta)
    food = oval(x + 6, y + 31 - 0.02 * z, np.float32(9), np.float32(6)) + 0.5 * wobble
    surface = np.minimum(surface, food)
    for centre, radii in (
        ((20, 22, 30), (9, 10, 60)),  # superior vena cava
        ((-24, 8, 66), (6, 6, 40)),  # left common carotid and subclavian arteries
        ((14, -2, 72), (7, 7, 34)),  # brachiocephalic artery
        ((-2, 40, 28), (15, 5, 18)),  # thymus
        ((10, 2, 8), (6, 4, 8)),
        ((-12, -4, -4), (5, 4, 9)),
        ((4, -20, -16), (8, 4, 10)),
        ((14, -34, 2), (4, 4, 90)),  # azygos vein
        ((26, 2, -96), (11, 11, 34)),  # inferior vena cava
    ):
        surface = np.minimum(surface, ellipsoid(x, y, z, centre, radii) + 0.8 * wobble)
    below = chest.diaphragm(x, y, z)
    inner = chest.cage(x, y, z)
    sheet = np.maximum(np.abs(below + 1.6) - 1.6, inner)
    liver = smooth_max(smooth_max(below + 1.5, inner + 3, 6), -np.float32(5) - x - 0.5 * (y + 10), 8)
    spleen = ellipsoid(x, y, z, (-92, -42, -152), (30, 42, 38))
    stomach = ellipsoid(x, y, z, (-62, 22, -158), (40, 48, 34))
    abdomen = np.minimum(np.minimum(spleen, stomach), liver)
    abdomen = np.maximum(abdomen, below + 2)
    surface = np.minimum(np.minimum(surface, abdomen), sheet)
    offset = np.where(liver < 2, 10.0, 0.0) + np.where(stomach < 0, -22.0, 0.0) - 8.0 * (aorta < 0)
    offset = offset - 8.0 * (heart < -10)
    return surface.astype(np.float32), offset.astype(np.float32)


def blood_pool(chest: Chest, x: Float, y: Float, z: Float) -> Float:
    """1 in the lumen of the heart and the great vessels, 0 elsewhere."""
    s = chest.heart_size
    pools = (
        ((-30, 34, -66), (27 * s, 20 * s, 25 * s)),
        ((2, 50, -58), (25 * s, 17 * s, 27 * s)),
        ((24, 18, -48), (20 * s, 25 * s, 30 * s)),
        ((0, -8, -46), (31, 15, 18)),
        ((20, 22, 30), (8, 9, 60)),
        ((-24, 8, 66), (5, 5, 40)),
        ((14, -2, 72), (6, 6, 34)),
        ((26, 2, -96), (10, 10, 34)),
    )
    lumen = chest.vessels_core(x, y, z) + 1.5
    for centre, radii in pools:
        lumen = np.minimum(lumen, ellipsoid(x, y, z, centre, radii))
    result: Float = np.clip(0.5 - lumen / 2, 0, 1).astype(np.float32)
    return result


def table(x: Float, y: Float) -> Float:
    """Distance below the table's curved top, in patient millimetres relative to the back."""
    result: Float = (-(y + 134) + 0.0011 * x * x).astype(np.float32)
    return result


def table_attenuation(depth_mm: NDArray[np.float32], x: Float) -> Float:
    """HU to add to air: two thin shells over foam."""
    shells = np.clip(1.6 - np.abs(depth_mm - 1.5), 0, 1) * 520 + np.clip(1.6 - np.abs(depth_mm - 46), 0, 1) * 480
    foam = ((depth_mm > 1.5) & (depth_mm < 46)) * np.float32(45)
    result: Float = ((shells + foam) * (np.abs(x) < 205)).astype(np.float32)
    return result
