"""Whole phantoms: what they claim about themselves is in the voxels."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage

from medai.domain import NoduleKind
from medai.errors import InputError
from medai.phantom import Attachment, Margin, NoduleSpec, PhantomConfig, make_phantom

SMALL = {"shape_ijk": (110, 100, 96), "spacing_mm": (3.0, 2.9, 3.1), "detail": 0.25}


def obliquely(angle=0.3, flip=1.0):
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[-c, 0.0, s * flip], [0.0, -1.0, 0.0], [s, 0.0, c * flip]])
    return tuple(tuple(float(v) for v in row) for row in turn)


@pytest.fixture(scope="module")
def mixed():
    """Every kind, attachment and margin at 1.4×1.4×1.9 mm."""
    specs = (
        NoduleSpec(diameter_mm=22, margin=Margin.SPICULATED),
        NoduleSpec(diameter_mm=16, kind=NoduleKind.PART_SOLID, margin=Margin.LOBULATED),
        NoduleSpec(diameter_mm=18, kind=NoduleKind.NON_SOLID),
        NoduleSpec(diameter_mm=12, attachment=Attachment.JUXTAPLEURAL),
        NoduleSpec(diameter_mm=9, attachment=Attachment.JUXTAVASCULAR),
        NoduleSpec(diameter_mm=8, kind=NoduleKind.NON_SOLID, attachment=Attachment.JUXTAPLEURAL),
    )
    config = PhantomConfig(
        shape_ijk=(230, 190, 150), spacing_mm=(1.4, 1.4, 1.9), nodules=specs, contrast=False, noise_hu=12.0, detail=0.5
    )
    return config, make_phantom(config, np.random.default_rng(8))


def test_masks_and_volumes_are_those_asked_for(mixed):
    config, phantom = mixed
    voxel_mm3 = phantom.volume.geometry.voxel_volume_mm3
    for spec, nodule in zip(config.nodules, phantom.nodules, strict=True):
        assert (nodule.kind, nodule.attachment, nodule.margin) == (spec.kind, spec.attachment, spec.margin)
        assert nodule.volume_mm3 == pytest.approx(np.pi / 6 * spec.diameter_mm**3, rel=0.02)
        assert nodule.diameter_mm == pytest.approx(spec.diameter_mm, rel=0.01)
        assert nodule.mask.sum() * voxel_mm3 == pytest.approx(nodule.volume_mm3, rel=0.15)
        np.testing.assert_array_equal(nodule.mask, nodule.fraction >= 0.5)
        middle = np.mean(np.argwhere(nodule.mask), axis=0) + nodule.box.start_ijk
        np.testing.assert_allclose(phantom.volume.geometry.ijk_to_ras(middle), nodule.centre_ras_mm, atol=0.5)


def test_nodules_lie_in_the_lungs_and_apart(mixed):
    _, phantom = mixed
    owner = np.zeros(phantom.lungs.shape, np.uint8)
    for nodule in phantom.nodules:
        assert np.all(phantom.lungs[nodule.box.slices][nodule.fraction > 0.8] > 0)
        assert not np.any(owner[nodule.box.slices][nodule.mask])
        owner[nodule.box.slices] |= nodule.mask


def test_attachments_touch_what_they_claim(mixed):
    _, phantom = mixed
    for nodule in phantom.nodules:
        wide = nodule.box.expand((3, 3, 3)).clip(phantom.lungs.shape)
        mask = np.zeros(wide.shape_ijk, bool)
        mask[nodule.box.shift([-s for s in wide.start_ijk]).slices] = nodule.mask
        rim = ndimage.binary_dilation(mask, iterations=1) & ~mask
        outside_lung = (phantom.lungs[wide.slices] == 0) & rim
        vessels = phantom.vessels[wide.slices] & (rim | mask)
        if nodule.attachment is Attachment.JUXTAPLEURAL:
            assert outside_lung.sum() > 5
        else:
            assert not outside_lung.any()
        if nodule.attachment is Attachment.JUXTAVASCULAR:
            assert vessels.sum() >= 2


def test_attenuation_fits_the_kind(mixed):
    _, phantom = mixed
    for nodule in phantom.nodules:
        core = ndimage.binary_erosion(nodule.mask, iterations=1)
        values = phantom.volume.image_hu[nodule.box.slices][core].astype(float)
        middle = np.median(values)
        if nodule.kind is NoduleKind.SOLID:
            assert -60 < middle < 100
        elif nodule.kind is NoduleKind.NON_SOLID:
            assert -740 < middle < -450
        else:
            assert middle < -200
            assert np.percentile(values, 98) > -120


def test_tissues_have_their_attenuation_and_lungs_their_size(mixed):
    _, phantom = mixed
    image = phantom.volume.image_hu
    assert image.dtype == np.int16
    inner = ndimage.binary_erosion(phantom.lungs > 0, iterations=3) & ~ndimage.binary_dilation(phantom.vessels)
    assert -900 < np.median(image[inner]) < -820
    litres = [(phantom.lungs == side).sum() * phantom.volume.geometry.voxel_volume_mm3 / 1e6 for side in (1, 2)]
    assert all(1.8 < volume < 4.2 for volume in litres)
    assert np.mean((image > 300) & (phantom.lungs == 0)) > 0.01  # bone
    assert np.mean(image[..., 75] > -200) > 0.25  # body
    assert phantom.vessels.sum() > 3000


def test_right_lung_is_on_the_patients_right(mixed):
    _, phantom = mixed
    geometry = phantom.volume.geometry
    for side, sign in ((1, 1), (2, -1)):
        middle = geometry.ijk_to_ras(np.argwhere(phantom.lungs == side).mean(axis=0))
        assert middle[0] * sign > 30
    np.testing.assert_array_equal(phantom.lobes > 0, phantom.lungs > 0)
    assert set(np.unique(phantom.lobes[phantom.lungs == 1])) == {1, 2, 3}
    assert set(np.unique(phantom.lobes[phantom.lungs == 2])) == {4, 5}
    height = {lobe: geometry.ijk_to_ras(np.argwhere(phantom.lobes == lobe).mean(axis=0))[2] for lobe in range(1, 6)}
    assert height[1] > height[2] and height[1] > height[3] and height[4] > height[5]


def test_same_seed_same_phantom_other_seed_another():
    config = PhantomConfig(shape_ijk=(60, 55, 50), spacing_mm=(5.5, 5.6, 5.8), nodule_count=1, detail=0.1)
    first, again, other = (make_phantom(config, np.random.default_rng(seed)) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first.volume.image_hu, again.volume.image_hu)
    np.testing.assert_array_equal(first.lungs, again.lungs)
    assert first.nodules[0].volume_mm3 == again.nodules[0].volume_mm3
    assert np.mean(first.volume.image_hu != other.volume.image_hu) > 0.5


@pytest.mark.parametrize(("angle", "flip"), [(0.3, 1.0), (-0.2, -1.0)])
def test_oblique_and_flipped_scans_show_the_same_chest(angle, flip):
    nodule = (NoduleSpec(diameter_mm=20, centre_ras_mm=(70.0, 10.0, 10.0)),)
    straight = make_phantom(PhantomConfig(nodules=nodule, noise_hu=0.0, **SMALL), np.random.default_rng(2))
    directions = obliquely(angle, flip)
    config = PhantomConfig(nodules=nodule, noise_hu=0.0, directions_ras=directions, **SMALL)
    turned = make_phantom(config, np.random.default_rng(2))
    assert np.linalg.det(turned.volume.geometry.directions_ras) * flip > 0
    np.testing.assert_allclose(turned.volume.geometry.directions_ras, directions, atol=1e-9)
    np.testing.assert_allclose(turned.nodules[0].centre_ras_mm, straight.nodules[0].centre_ras_mm, atol=0.3)
    index = straight.volume.geometry.ras_to_ijk(
        turned.volume.geometry.ijk_to_ras(np.argwhere(turned.lungs > 0)[::37].astype(float))
    )
    inside = ndimage.map_coordinates((straight.lungs > 0).astype(float), index.T, order=1, cval=np.nan)
    assert np.nanmean(inside > 0.5) > 0.95


def test_thick_slices_average_thin_ones_and_keep_the_volume():
    spec = (NoduleSpec(diameter_mm=10, centre_ras_mm=(75.0, 0.0, 0.0)),)
    config = PhantomConfig(shape_ijk=(90, 84, 40), spacing_mm=(2.4, 2.4, 5.0), nodules=spec, detail=0.2)
    phantom = make_phantom(config, np.random.default_rng(3))
    assert phantom.volume.image_hu.shape == (90, 84, 40)
    nodule = phantom.nodules[0]
    assert nodule.volume_mm3 == pytest.approx(np.pi / 6 * 1000, rel=0.02)
    assert nodule.box.shape_ijk[2] <= 5
    assert np.any((nodule.fraction > 0.05) & (nodule.fraction < 0.95))


def test_drawn_nodules_are_mixed_and_counted():
    config = PhantomConfig(nodule_count=5, **SMALL)
    phantom = make_phantom(config, np.random.default_rng(6))
    assert len(phantom.nodules) == 5
    for a, b in pairwise(phantom.nodules):
        assert np.linalg.norm(np.subtract(a.centre_ras_mm, b.centre_ras_mm)) > 0.5 * (a.diameter_mm + b.diameter_mm)


def test_a_nodule_outside_the_lungs_is_refused():
    config = PhantomConfig(nodules=(NoduleSpec(diameter_mm=8, centre_ras_mm=(0.0, -90.0, 0.0)),), **SMALL)
    with pytest.raises(InputError, match="outside the lungs"):
        make_phantom(config, np.random.default_rng(1))


def test_a_field_of_view_without_room_is_refused():
    config = PhantomConfig(shape_ijk=(10, 11, 12), spacing_mm=(2.0, 2.0, 2.0), nodule_count=1, detail=0.05)
    with pytest.raises(InputError, match="No place for a"):
        make_phantom(config, np.random.default_rng(1))


def test_a_nodule_too_small_for_the_voxels_is_refused():
    config = PhantomConfig(nodules=(NoduleSpec(diameter_mm=3),), **(SMALL | {"spacing_mm": (5.0, 5.0, 9.0)}))
    with pytest.raises(InputError, match="fills no voxel"):
        make_phantom(config, np.random.default_rng(1))
