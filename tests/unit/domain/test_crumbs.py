"""What is too small to be a nodule, on fine and on coarse grids."""

import pytest

from medai.domain.crumbs import is_crumb


@pytest.mark.parametrize(
    ("voxels", "voxel_volume_mm3", "crumb"),
    [
        (1, 30.0, True),
        (3, 10.0, False),
        (4, 0.6, True),
        (7, 0.6, True),
        (7, 0.95, True),
        (8, 0.6, True),
        (6, 3.2, False),
        (2, 3.5, True),
        (3, 3.5, False),
        (9, 0.6, False),
        (4, 5.0, False),
        (11, 1.1, False),
        (16, 0.35, False),
    ],
)
def test_a_crumb_has_few_voxels_or_little_volume(voxels, voxel_volume_mm3, crumb):
    assert is_crumb(voxels, voxel_volume_mm3) is crumb
