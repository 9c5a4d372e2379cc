"""Lungs and nodules on real chest CTs, as an annotator would judge them."""

import tarfile

import numpy as np
import pytest

from medai.preprocessing.lung_mask import segment_lungs
from medai.registry.model_registry import ModelRegistry
from medai.volume_io.readers import read_volume
from medai.workflows.infer_case import load_pipeline

pytestmark = pytest.mark.real_data

NODULE_OF_CPTAC_LPS_MM = (-82.8, -191.3, -192.0)
"""Voxel (107, 170, 32) of the file's own axial grid; about 18 mm across."""
MASS_OF_A0001_LPS_MM = (45.5, 201.6, -209.0)
"""Voxel (325, 350, 46)."""


@pytest.fixture(scope="module")
def scan_of(real_data, tmp_path_factory):
    volumes = {}

    def get(name):
        if name not in volumes:
            folder = tmp_path_factory.mktemp(name)
            with tarfile.open(real_data / "dicom" / f"{name}.tar.xz") as archive:
                archive.extractall(folder, filter="data")
            volumes[name] = read_volume(folder)
        return volumes[name]

    return get


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return load_pipeline(ModelRegistry(tmp_path_factory.mktemp("models")), device="cpu")


def _ras(point_lps_mm):
    return np.array(point_lps_mm) * [-1, -1, 1]


@pytest.mark.parametrize(
    ("name", "right_ml", "left_ml"),
    [("cptac_lscc_C3N-00247", (2400, 2950), (1700, 2150)), ("lung_pet_ct_dx_A0001", (2900, 3500), (2050, 2650))],
)
def test_lungs_have_the_volume_of_lungs(scan_of, name, right_ml, left_ml):
    volume = scan_of(name)
    lungs = segment_lungs(volume)
    assert lungs.is_plausible
    assert right_ml[0] < lungs.volume_ml["right"] < right_ml[1]
    assert left_ml[0] < lungs.volume_ml["left"] < left_ml[1]
    inside = volume.image_hu[lungs.labels > 0]
    assert -900 < np.median(inside) < -750
    assert np.mean(inside > -200) < 0.12


def test_the_nodule_and_the_mass_are_in_or_beside_their_lung(scan_of):
    assert segment_lungs(scan_of("cptac_lscc_C3N-00247")).side_at(_ras(NODULE_OF_CPTAC_LPS_MM)) == "right"
    assert segment_lungs(scan_of("lung_pet_ct_dx_A0001")).side_at(_ras(MASS_OF_A0001_LPS_MM)) == "left"


def test_a_slab_of_a_scan_has_lungs_too(scan_of):
    lungs = segment_lungs(scan_of("lidc_slab_0002"))
    assert lungs.is_plausible
    assert min(lungs.volume_ml.values()) > 90


def test_the_nodule_is_found_outlined_and_named(scan_of, pipeline):
    prediction = pipeline.predict(scan_of("cptac_lscc_C3N-00247"))
    off_mm = [np.linalg.norm(np.subtract(n.centre_ras_mm, _ras(NODULE_OF_CPTAC_LPS_MM))) for n in prediction.nodules]
    nodule = prediction.nodules[int(np.argmin(off_mm))]
    assert min(off_mm) < 6
    assert nodule.side == "right"
    assert 13 < nodule.diameter_mm < 26
    assert len(prediction.nodules) <= 6  # two more are real: 7 mm at (442, 277, 31) and 5 mm at (52, 286, 44)


def test_the_mass_is_marked(scan_of, pipeline):
    prediction = pipeline.predict(scan_of("lung_pet_ct_dx_A0001"))
    off_mm = [np.linalg.norm(np.subtract(n.centre_ras_mm, _ras(MASS_OF_A0001_LPS_MM))) for n in prediction.nodules]
    part = prediction.nodules[int(np.argmin(off_mm))]
    assert min(off_mm) < 30
    assert part.side == "left"
    assert max(n.diameter_mm for n in prediction.nodules) > 20
    assert len(prediction.nodules) <= 9
