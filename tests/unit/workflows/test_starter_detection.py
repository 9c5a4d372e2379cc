import numpy as np
import pytest

from medai.domain import Volume
from medai.domain.click_case import ClickCase
from medai.geometry import VolumeGeometry
from medai.workflows.starter_detection import is_held_back, known_nodule


def test_one_patient_in_six_is_held_back_for_good():
    held = [is_held_back(f"LIDC-IDRI-{n:04d}") for n in range(1, 1011)]
    assert np.mean(held) == pytest.approx(1 / 6, abs=0.04)
    assert held == [is_held_back(f"LIDC-IDRI-{n:04d}") for n in range(1, 1011)]


def test_a_masks_centre_and_size_in_the_patient():
    geometry = VolumeGeometry(shape_ijk=(40, 41, 20), affine_ijk_to_ras_mm=np.diag([-0.7, 0.7, 1.5, 1.0]))
    index = np.stack(np.meshgrid(*[np.arange(n) for n in geometry.shape_ijk], indexing="ij"), axis=-1)
    mask = np.linalg.norm((index - [20, 18, 9]) * geometry.spacing_mm, axis=-1) < 5
    volume = Volume(geometry=geometry, image_hu=np.zeros(geometry.shape_ijk, np.int16))
    nodule = known_nodule(ClickCase(case_id="a", patient_id="p", volume=volume, mask=mask))
    np.testing.assert_allclose(nodule.centre_ras_mm, (-14.0, 12.6, 13.5), atol=1e-6)
    assert nodule.diameter_mm == pytest.approx(10, abs=0.4)
