"""Parts found block by block are those that are found voxel by voxel."""

import numpy as np
import pytest
from scipy import ndimage

from medai.evaluation.label_parts import label_parts


@pytest.mark.parametrize("density", [0.002, 0.02, 0.2])
def test_the_parts_are_those_of_the_whole_array(density):
    labelled = np.random.default_rng(3).random((37, 22, 19)) < density
    numbered, count = ndimage.label(labelled, structure=np.ones((3, 3, 3)))
    parts = label_parts(labelled)
    assert sorted((p.voxels for p in parts), reverse=True) == [p.voxels for p in parts]
    assert len(parts) == count
    drawn = np.zeros(labelled.shape, dtype=int)
    for number, part in enumerate(parts, start=1):
        assert np.count_nonzero(part.mask) == part.voxels
        assert len(np.unique(numbered[part.box.slices][part.mask])) == 1
        drawn[part.box.slices][part.mask] = number
    assert np.array_equal(drawn != 0, labelled)


def test_nothing_has_no_part():
    assert label_parts(np.zeros((5, 6, 7), dtype=bool)) == []
