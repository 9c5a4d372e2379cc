"""A cropped segmentation goes back to its place; anything else is refused."""

import numpy as np
import pytest

from medai.domain import LabelMap, Segment
from medai.errors import GeometryError
from medai.geometry import IndexBox, VolumeGeometry
from medai.volume_io.regrid import place_label_map


def label_map(geometry, box, rng):
    grid = geometry.crop(box)
    labels = rng.integers(0, 2, size=grid.shape_ijk).astype(np.uint8)
    return LabelMap(geometry=grid, labels=labels, segments=(Segment(value=1, name="n"),))


def test_cropped_map_is_put_back(geometry, rng):
    box = IndexBox(start_ijk=(2, 3, 4), stop_ijk=(7, 11, 9))
    cropped = label_map(geometry, box, rng)
    placed = place_label_map(cropped, geometry)
    assert placed.geometry is geometry
    np.testing.assert_array_equal(placed.labels[box.slices], cropped.labels)
    assert placed.labels.sum() == cropped.labels.sum()
    assert placed.label_names == {"n": 1}


def test_padded_map_is_cut_but_never_loses_labels(geometry, rng):
    padded = label_map(geometry, IndexBox(start_ijk=(-2, 0, 1), stop_ijk=(7, 13, 9)), rng)
    with pytest.raises(GeometryError, match="labelled voxels lie outside the scan"):
        place_label_map(padded, geometry)
    padded.labels[:2] = 0
    padded.labels[:, 11:] = 0
    placed = place_label_map(padded, geometry)
    np.testing.assert_array_equal(placed.labels[:7, :, 1:9], padded.labels[2:, :11])


def test_other_grids_are_refused(geometry, rng):
    affine = geometry.affine_ijk_to_ras_mm.copy()
    affine[:3, 3] += 0.3
    shifted = VolumeGeometry(shape_ijk=(5, 5, 5), affine_ijk_to_ras_mm=affine)
    wrong = label_map(shifted, IndexBox.of_shape((5, 5, 5)), rng)
    with pytest.raises(GeometryError, match="is not on the scan's grid"):
        place_label_map(wrong, geometry)
    far = label_map(geometry, IndexBox(start_ijk=(50, 0, 0), stop_ijk=(55, 5, 5)), rng)
    with pytest.raises(GeometryError, match="outside the scan"):
        place_label_map(far, geometry)
