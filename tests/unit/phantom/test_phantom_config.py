"""What a phantom may be asked to be."""

import numpy as np
import pytest

from medai.errors import GeometryError, InputError
from medai.phantom import NoduleSpec, PhantomConfig


@pytest.mark.parametrize("diameter_mm", [2.9, 41.0])
def test_diameter_outside_range_is_refused(diameter_mm):
    with pytest.raises(InputError, match=f"3–40 mm across, not {diameter_mm:g} mm"):
        NoduleSpec(diameter_mm=diameter_mm)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodule_count": -1}, "nodule_count is -1"),
        ({"noise_hu": -2.0}, "noise_hu is -2"),
        ({"slice_thickness_mm": 0.0}, "slice_thickness_mm is 0"),
        ({"detail": 0.0}, "detail is 0"),
        ({"spacing_mm": (1.0, 0.0, 1.0)}, "every spacing must be positive"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        PhantomConfig(**change)


def test_sheared_directions_are_refused():
    with pytest.raises(GeometryError, match="right angles"):
        PhantomConfig(directions_ras=((1.0, 0.3, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)))


def test_standard_grid_lies_as_dicom_does_and_is_centred():
    geometry = PhantomConfig(shape_ijk=(10, 11, 12), spacing_mm=(0.7, 0.8, 2.5), centre_ras_mm=(5, -6, 7)).geometry()
    np.testing.assert_allclose(geometry.spacing_mm, (0.7, 0.8, 2.5))
    np.testing.assert_allclose(geometry.ijk_to_ras((4.5, 5, 5.5)), (5, -6, 7))
    np.testing.assert_allclose(geometry.directions_ras, np.diag([-1, -1, 1]))
