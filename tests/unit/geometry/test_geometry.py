"""Grids, frames and boxes: invariants over random oblique, flipped and anisotropic grids."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medai.errors import GeometryError
from medai.geometry import IndexBox, VolumeGeometry
from medai.geometry.frames import affine_from_itk, affine_to_itk, points_lps_to_ras, points_ras_to_lps

SHAPE_IJK = (10, 11, 12)


def rotation(seed: int) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q


@st.composite
def geometries(draw: st.DrawFn) -> VolumeGeometry:
    """Any orthogonal grid: determinant ±1 directions cover flipped and oblique scans."""
    directions = rotation(draw(st.integers(0, 10_000)))
    spacing_mm = np.array(draw(st.tuples(*[st.floats(0.3, 5.0)] * 3)))
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing_mm
    affine[:3, 3] = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    return VolumeGeometry(shape_ijk=SHAPE_IJK, affine_ijk_to_ras_mm=affine)


@given(geometries(), st.tuples(*[st.floats(-20, 20)] * 3))
@settings(max_examples=50, deadline=None)
def test_ijk_to_ras_and_back(geometry: VolumeGeometry, point_ijk: tuple[float, float, float]) -> None:
    assert geometry.ras_to_ijk(geometry.ijk_to_ras(point_ijk)) == pytest.approx(point_ijk, abs=1e-8)


@given(geometries())
@settings(max_examples=50, deadline=None)
def test_itk_form_and_back_keeps_the_grid(geometry: VolumeGeometry) -> None:
    origin, spacing, direction = affine_to_itk(geometry.affine_ijk_to_ras_mm)
    assert affine_from_itk(origin, spacing, direction) == pytest.approx(geometry.affine_ijk_to_ras_mm)
    assert spacing == pytest.approx(geometry.spacing_mm)


@given(geometries(), st.tuples(*[st.integers(-3, 8)] * 3))
@settings(max_examples=50, deadline=None)
def test_a_crop_keeps_voxels_where_they_are(geometry: VolumeGeometry, start_ijk: tuple[int, int, int]) -> None:
    i, j, k = start_ijk
    box = IndexBox(start_ijk=start_ijk, stop_ijk=(i + 2, j + 3, k + 4))
    crop = geometry.crop(box)
    assert crop.shape_ijk == (2, 3, 4)
    assert crop.ijk_to_ras((1, 2, 3)) == pytest.approx(geometry.ijk_to_ras(np.add(start_ijk, (1, 2, 3))))


@given(geometries(), st.tuples(*[st.floats(0.4, 3.0)] * 3))
@settings(max_examples=50, deadline=None)
def test_resampling_keeps_the_outer_corner(geometry: VolumeGeometry, spacing_mm: tuple[float, float, float]) -> None:
    other = geometry.resampled(spacing_mm)
    assert other.spacing_mm == pytest.approx(spacing_mm)
    assert other.ijk_to_ras((-0.5, -0.5, -0.5)) == pytest.approx(geometry.ijk_to_ras((-0.5, -0.5, -0.5)), abs=1e-6)
    extent = np.array(other.shape_ijk) * spacing_mm
    assert np.all(extent >= np.array(SHAPE_IJK) * geometry.spacing_mm - 1e-3)


@given(geometries(), st.integers(0, 2))
@settings(max_examples=50, deadline=None)
def test_reversing_an_axis_keeps_voxels_where_they_are(geometry: VolumeGeometry, axis: int) -> None:
    other = geometry.with_axis_reversed(axis)
    assert other.is_left_handed != geometry.is_left_handed
    index = [2, 3, 4]
    mirrored = list(index)
    mirrored[axis] = SHAPE_IJK[axis] - 1 - index[axis]
    assert other.ijk_to_ras(mirrored) == pytest.approx(geometry.ijk_to_ras(index), abs=1e-6)


def test_lps_flips_the_first_two_axes_only() -> None:
    assert points_lps_to_ras([[1.0, 2.0, 3.0]]).tolist() == [[-1.0, -2.0, 3.0]]
    assert points_ras_to_lps(points_lps_to_ras([4.0, -5.0, 6.0])).tolist() == [4.0, -5.0, 6.0]


def test_a_sheared_affine_is_refused_as_tilt() -> None:
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[1, 2] = 0.4
    with pytest.raises(GeometryError, match="not at right angles"):
        VolumeGeometry(shape_ijk=SHAPE_IJK, affine_ijk_to_ras_mm=affine)


@pytest.mark.parametrize(
    ("affine", "shape_ijk", "message"),
    [
        (np.full((4, 4), np.nan), SHAPE_IJK, "finite"),
        (np.eye(3), SHAPE_IJK, "4×4"),
        (np.diag([1.0, 0.0, 1.0, 1.0]), SHAPE_IJK, "must be positive"),
        (np.eye(4), (10, 0, 12), "at least one voxel"),
    ],
)
def test_bad_grids_are_refused(affine: np.ndarray, shape_ijk: tuple[int, int, int], message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        VolumeGeometry(shape_ijk=shape_ijk, affine_ijk_to_ras_mm=affine)


def test_same_grid_tolerates_header_rounding_and_sees_a_voxel_shift() -> None:
    affine = np.eye(4)
    affine[:3, :3] = rotation(3) * (0.7, 0.7, 1.25)
    geometry = VolumeGeometry(shape_ijk=(512, 512, 300), affine_ijk_to_ras_mm=affine)
    rounded = VolumeGeometry(shape_ijk=(512, 512, 300), affine_ijk_to_ras_mm=affine.astype(np.float32))
    assert geometry.is_same_grid(rounded)
    moved = affine.copy()
    moved[:3, 3] += affine[:3, 2] * 0.2
    assert not geometry.is_same_grid(VolumeGeometry(shape_ijk=(512, 512, 300), affine_ijk_to_ras_mm=moved))
    assert not geometry.is_same_grid(VolumeGeometry(shape_ijk=(512, 512, 299), affine_ijk_to_ras_mm=affine))


def test_boxes() -> None:
    mask = np.zeros(SHAPE_IJK, dtype=bool)
    assert IndexBox.of_mask(mask) is None
    mask[2:5, 3, 7:9] = True
    box = IndexBox.of_mask(mask)
    assert box == IndexBox(start_ijk=(2, 3, 7), stop_ijk=(5, 4, 9))
    assert box.shape_ijk == (3, 1, 2)
    assert box.contains((4, 3, 8))
    assert not box.contains((5, 3, 8))
    grown = box.expand((4, 4, 4))
    assert grown.start_ijk == (-2, -1, 3)
    assert grown.clip(SHAPE_IJK) == IndexBox(start_ijk=(0, 0, 3), stop_ijk=(9, 8, 12))
    with pytest.raises(GeometryError, match="clip it first"):
        _ = grown.slices
    far = IndexBox(start_ijk=(20, 20, 20), stop_ijk=(21, 21, 21))
    assert far.clip(SHAPE_IJK).is_empty
    assert box.union(far).shape_ijk == (19, 18, 14)
    assert box.shift((1, 0, -1)).start_ijk == (3, 3, 6)
    assert IndexBox.around((5, 5, 5), (4, 3, 2)).start_ijk == (3, 4, 4)
    with pytest.raises(GeometryError, match="ends before it starts"):
        IndexBox(start_ijk=(1, 0, 0), stop_ijk=(0, 1, 1))
