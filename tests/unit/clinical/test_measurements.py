import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medai.clinical.measurements import attenuation_kind, axial_size, slice_axis, volume_mm3
from medai.domain import NoduleKind
from medai.errors import InputError
from medai.geometry import VolumeGeometry


def _geometry(shape, spacing, order=(0, 1, 2), flips=(1, 1, 1)):
    affine = np.eye(4)
    affine[:3, :3] = 0
    for array_axis, patient_axis in enumerate(order):
        affine[patient_axis, array_axis] = spacing[array_axis] * flips[array_axis]
    return VolumeGeometry(shape_ijk=shape, affine_ijk_to_ras_mm=affine)


def _ellipsoid(geometry, radii_mm, turn_deg=0.0):
    index = np.stack(np.meshgrid(*[np.arange(n) for n in geometry.shape_ijk], indexing="ij"), axis=-1)
    middle = (np.asarray(geometry.shape_ijk) - 1) / 2
    offset = geometry.ijk_to_ras(index) - geometry.ijk_to_ras(middle)
    angle = np.deg2rad(turn_deg)
    turned = np.stack(
        [
            offset[..., 0] * np.cos(angle) + offset[..., 1] * np.sin(angle),
            -offset[..., 0] * np.sin(angle) + offset[..., 1] * np.cos(angle),
            offset[..., 2],
        ],
        axis=-1,
    )
    return (turned / np.asarray(radii_mm)).__pow__(2).sum(axis=-1) <= 1


@pytest.mark.parametrize("diameter_mm", [4.0, 8.0, 15.0, 30.0])
def test_a_sphere_measures_its_own_diameter(diameter_mm):
    geometry = _geometry((61, 63, 35), (0.7, 0.7, 1.25))
    mask = _ellipsoid(geometry, [diameter_mm / 2] * 3)
    size = axial_size(mask, geometry)
    assert size.long_axis_mm == pytest.approx(diameter_mm, abs=0.7)
    assert size.mean_diameter_mm == pytest.approx(diameter_mm, abs=0.61)
    assert volume_mm3(mask, geometry) == pytest.approx(np.pi / 6 * diameter_mm**3, rel=0.12)


@pytest.mark.parametrize("turn_deg", [0, 30, 45, 90, 137])
def test_axes_of_an_ellipse_at_any_angle(turn_deg):
    geometry = _geometry((71, 73, 15), (0.6, 0.6, 2.0))
    size = axial_size(_ellipsoid(geometry, [14.0, 6.0, 9.0], turn_deg), geometry)
    assert size.long_axis_mm == pytest.approx(28.0, abs=0.6)
    assert size.short_axis_mm == pytest.approx(12.0, abs=0.6)
    assert size.slice_index == 7


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_axial_plane_is_found_whatever_the_array_axes(order):
    spacing = tuple((0.7, 0.8, 1.5)[patient] for patient in order)
    shape = tuple((50, 51, 40)[patient] for patient in order)
    geometry = _geometry(shape, spacing, order, flips=(-1, 1, -1))
    assert order[slice_axis(geometry)] == 2
    size = axial_size(_ellipsoid(geometry, [10.0, 5.0, 16.0]), geometry)
    assert (size.long_axis_mm, size.short_axis_mm) == (pytest.approx(20, abs=0.8), pytest.approx(10, abs=0.8))


def test_one_voxel_has_its_own_size():
    geometry = _geometry((10, 11, 12), (0.7, 0.7, 2.5))
    mask = np.zeros(geometry.shape_ijk, dtype=bool)
    mask[3, 4, 5] = True
    size = axial_size(mask, geometry)
    assert size.long_axis_mm == pytest.approx(0.7)
    assert size.mean_diameter_mm == 0.7
    assert volume_mm3(mask, geometry) == pytest.approx(0.7 * 0.7 * 2.5)


def test_an_empty_mask_is_refused():
    geometry = _geometry((10, 11, 12), (0.7, 0.7, 2.5))
    empty = np.zeros(geometry.shape_ijk, dtype=bool)
    with pytest.raises(InputError, match="empty mask has no size"):
        axial_size(empty, geometry)
    with pytest.raises(InputError, match="empty mask has no attenuation type"):
        attenuation_kind(empty.astype(np.int16), empty, geometry)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_short_axis_never_exceeds_the_long_one(seed):
    mask = np.random.default_rng(seed).random((7, 6, 5)) > 0.7
    mask[3, 3, 2] = True
    size = axial_size(mask, _geometry((7, 6, 5), (0.7, 0.9, 2.0)))
    assert 0 < size.short_axis_mm <= size.long_axis_mm + 1e-9


@pytest.mark.parametrize(
    ("core_hu", "shell_hu", "kind"),
    [
        (40, 40, NoduleKind.SOLID),
        (-20, -620, NoduleKind.PART_SOLID),
        (-620, -620, NoduleKind.NON_SOLID),
    ],
)
@pytest.mark.parametrize("radius_mm", [5.0, 9.0])
def test_kind_from_attenuation(core_hu, shell_hu, kind, radius_mm, rng):
    geometry = _geometry((41, 43, 25), (0.7, 0.7, 1.0))
    mask = _ellipsoid(geometry, [radius_mm] * 3)
    image = np.where(_ellipsoid(geometry, [0.6 * radius_mm] * 3), core_hu, np.where(mask, shell_hu, -850))
    image = image + rng.normal(0, 40, image.shape)
    assert attenuation_kind(image.astype(np.int16), mask, geometry) == kind


def test_a_small_solid_nodule_is_solid_in_spite_of_its_blurred_rim():
    from scipy import ndimage

    geometry = _geometry((21, 22, 15), (0.7, 0.7, 1.25))
    mask = _ellipsoid(geometry, [2.3] * 3)
    image = ndimage.gaussian_filter(np.where(mask, 40.0, -850.0), 0.8)
    assert attenuation_kind(image, mask, geometry) == NoduleKind.SOLID
