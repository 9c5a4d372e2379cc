"""Nodules taken out of one scan and put into another: what arrives, where, and what stays as it was."""

import numpy as np
import pytest
from scipy import ndimage

from medai.domain import NoduleKind, Volume
from medai.domain.click_case import ClickCase
from medai.errors import InputError
from medai.geometry import VolumeGeometry
from medai.phantom import Attachment
from medai.phantom.cutout import cut_out
from medai.phantom.insertion import Host, random_turn, turn_onto

LUNG_HU, TISSUE_HU = -860.0, 40.0


def grid(shape, spacing_mm, angle=0.0, flip=1.0):
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, flip]])
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing_mm
    affine[:3, 3] = (12.0, -30.0, 55.0)
    return VolumeGeometry(shape_ijk=shape, affine_ijk_to_ras_mm=affine)


def ball(geometry, centre_ijk, diameter_mm):
    """The share of each voxel that a ball fills, nearly."""
    offsets = (np.indices(geometry.shape_ijk).reshape(3, -1).T - centre_ijk) * geometry.spacing_mm
    distance = np.linalg.norm(offsets, axis=1).reshape(geometry.shape_ijk) - diameter_mm / 2
    return np.clip(0.5 - distance / np.mean(geometry.spacing_mm), 0, 1)


def noisy(image, rng, noise_hu):
    return np.rint(image + rng.normal(0, noise_hu, image.shape)).astype(np.int16)


def source(
    rng, *, diameter_mm=8.0, spacing_mm=(0.7, 0.7, 1.25), cut=True, noise_hu=20.0, wall_at=None, tissue=TISSUE_HU
):
    """A ball in lung; cut along z to the slices of its mask, as the crops of lidc_nodules are."""
    geometry = grid((61, 63, 25), spacing_mm)
    share = ball(geometry, (30.0, 31.0, 12.0), diameter_mm)
    mask = share >= 0.5
    if wall_at is not None:
        share[wall_at:] = 1.0
        mask[wall_at:] = False
    image = noisy(LUNG_HU + share * (tissue - LUNG_HU), rng, noise_hu)
    if cut:
        slices = np.flatnonzero(mask.any(axis=(0, 1)))
        keep = slice(slices[0], slices[-1] + 1)
        image, mask = image[..., keep], mask[..., keep]
        geometry = grid(mask.shape, spacing_mm)
    volume = Volume(geometry=geometry, image_hu=image)
    return ClickCase(case_id="N1", patient_id="P1", volume=volume, mask=mask)


def lung_block(rng, *, shape=(90, 80, 50), spacing_mm=(0.8, 0.8, 1.5), noise_hu=25.0, angle=0.0, flip=1.0):
    """Lung within a slab of soft tissue on each side along i."""
    geometry = grid(shape, spacing_mm, angle, flip)
    image = np.full(shape, LUNG_HU)
    wall = 28
    image[:wall] = TISSUE_HU
    lungs = np.ones(shape, dtype=np.uint8)
    lungs[:wall] = 0
    return Volume(geometry=geometry, image_hu=noisy(image, rng, noise_hu)), lungs


@pytest.mark.parametrize("cut", [False, True])
def test_cutout_holds_the_nodule_and_no_lung(rng, cut):
    cutout = cut_out(source(rng, cut=cut), kind=NoduleKind.SOLID)
    voxel_mm3 = float(np.prod(cutout.spacing_mm))
    assert cutout.share.sum() * voxel_mm3 == pytest.approx(np.pi / 6 * 8.0**3, rel=0.15)
    assert cutout.share[cutout.outline > 0].max() > 0.97
    assert cutout.share[:5].max() < 0.1
    assert (cutout.kind, cutout.attachment, cutout.contact_ras) == (NoduleKind.SOLID, Attachment.ISOLATED, None)
    # The ends that the crop lacks are rounded off, not left flat.
    per_slice = cutout.share.sum(axis=(0, 1))
    assert per_slice[0] < 2 and per_slice[-1] < 2


def test_haze_of_a_non_solid_nodule_stays_haze(rng):
    cutout = cut_out(source(rng, diameter_mm=12.0, tissue=-620.0, noise_hu=12.0))
    inner = ndimage.binary_erosion(cutout.outline > 0, iterations=2)
    assert np.median(cutout.share[inner]) == pytest.approx(240 / 890, abs=0.05)


def test_a_nodule_on_the_wall_knows_where_the_wall_is(rng):
    cutout = cut_out(source(rng, diameter_mm=12.0, wall_at=35, cut=False))
    assert cutout.attachment is Attachment.JUXTAPLEURAL
    assert cutout.contact_ras @ [1, 0, 0] > 0.9
    assert 2.0 < cutout.contact_mm < 7.0


def test_what_cannot_be_taken_out_is_refused(rng):
    whole = source(rng, cut=False)
    middle = slice(11, 14)
    flat = ClickCase(
        case_id="flat",
        patient_id="P",
        volume=Volume(geometry=grid((61, 63, 3), (0.7, 0.7, 1.25)), image_hu=whole.volume.image_hu[..., middle]),
        mask=whole.mask[..., middle],
    )
    with pytest.raises(InputError, match="cut off along z"):
        cut_out(flat)
    solid = Volume(geometry=whole.volume.geometry, image_hu=np.full(whole.mask.shape, 40, np.int16))
    with pytest.raises(InputError, match="no lung beside"):
        cut_out(ClickCase(case_id="x", patient_id="P", volume=solid, mask=whole.mask))


@pytest.mark.parametrize(("angle", "flip", "slice_mm"), [(0.0, 1.0, 1.5), (0.4, -1.0, 1.0), (0.0, 1.0, 3.0)])
def test_truth_lies_where_the_scan_became_brighter(rng, angle, flip, slice_mm):
    shape = (90, 80, round(75 / slice_mm))
    volume, lungs = lung_block(rng, shape=shape, spacing_mm=(0.8, 0.8, slice_mm), angle=angle, flip=flip)
    host = Host.prepare(volume, lungs)
    nodule = host.insert(cut_out(source(rng, noise_hu=10.0)), rng)
    added = host.volume.image_hu.astype(float) - volume.image_hu
    weight = ndimage.gaussian_filter(added, 0.8)
    weight[weight < 150] = 0
    middle = np.argwhere(weight > 0).T @ weight[weight > 0] / weight.sum()
    np.testing.assert_allclose(nodule.centre_ras_mm, volume.geometry.ijk_to_ras(middle), atol=0.8)
    assert nodule.diameter_mm == pytest.approx(8.0, rel=0.12)
    # Attenuation is spread over thicker slices, neither lost nor won.
    total = added.sum() * volume.geometry.voxel_volume_mm3 / (TISSUE_HU - LUNG_HU)
    assert total == pytest.approx(np.pi / 6 * 8.0**3, rel=0.15)
    assert (nodule.case_id, nodule.patient_id) == ("N1", "P1")


def test_nothing_else_changes_and_the_noise_goes_on(rng):
    volume, lungs = lung_block(rng, noise_hu=30.0)
    host = Host.prepare(volume, lungs)
    nodule = host.insert(cut_out(source(rng, diameter_mm=14.0, noise_hu=35.0)), rng)
    outside = np.ones(lungs.shape, dtype=bool)
    outside[nodule.box.slices] = nodule.share == 0
    np.testing.assert_array_equal(host.volume.image_hu[outside], volume.image_hu[outside])
    image = host.volume.image_hu[nodule.box.slices].astype(float)
    fine = image - ndimage.uniform_filter(image, (3, 3, 1))
    core, around = ndimage.binary_erosion(nodule.mask, iterations=2), nodule.share < 0.02
    assert fine[core].std() / fine[around].std() == pytest.approx(1.0, abs=0.25)


def test_nodules_keep_apart_and_off_what_is_taken(rng):
    volume, lungs = lung_block(rng, shape=(110, 90, 60))
    taken = tuple(float(c) for c in volume.geometry.ijk_to_ras((70, 45, 30)))
    host = Host.prepare(volume, lungs, ((taken, 12.0),))
    cutout = cut_out(source(rng))
    for _ in range(4):
        host.insert(cutout, rng)
    centres = [np.array(taken), *(np.array(nodule.centre_ras_mm) for nodule in host.inserted)]
    assert len(centres) >= 3
    gaps = [np.linalg.norm(a - b) for n, a in enumerate(centres) for b in centres[:n]]
    assert min(gaps) > 9.0


def test_a_wall_nodule_is_put_on_the_wall(rng):
    volume, lungs = lung_block(rng, shape=(100, 90, 60))
    host = Host.prepare(volume, lungs)
    nodule = host.insert(cut_out(source(rng, diameter_mm=12.0, wall_at=35, cut=False)), rng)
    assert nodule.attachment is Attachment.JUXTAPLEURAL
    i_of_wall = 28
    lowest = nodule.box.start_ijk[0] + np.flatnonzero(nodule.mask.any(axis=(1, 2)))[0]
    assert abs(lowest - i_of_wall) <= 2


def test_same_generator_same_scan(rng):
    volume, lungs = lung_block(rng)
    cutout = cut_out(source(rng))
    made = []
    for _ in range(2):
        host = Host.prepare(volume, lungs)
        host.insert(cutout, np.random.default_rng(5))
        made.append(host.volume.image_hu)
    np.testing.assert_array_equal(*made)


def test_no_room_is_no_nodule(rng):
    volume, lungs = lung_block(rng)
    host = Host.prepare(volume, np.zeros_like(lungs))
    assert host.insert(cut_out(source(rng)), rng) is None
    np.testing.assert_array_equal(host.volume.image_hu, volume.image_hu)


def test_turns_are_rigid_and_keep_thick_slices_level(rng):
    for _ in range(10):
        for may_tilt in (False, True):
            turn = random_turn(rng, may_tilt=may_tilt)
            np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-9)
            if not may_tilt:
                assert abs(turn[2, 2]) == pytest.approx(1.0)
    old, new = np.array([0.6, 0.8, 0.0]), np.array([0.0, 0.6, 0.8])
    np.testing.assert_allclose(turn_onto(old, new, rng, may_tilt=True) @ old, new, atol=1e-9)
    assert turn_onto(old, new, rng, may_tilt=False) is None
    level = np.array([-1.0, 0.0, 0.0])
    np.testing.assert_allclose(turn_onto(old, level, rng, may_tilt=False) @ old, level, atol=1e-9)
