import json

import numpy as np
import pytest

from medai.domain import Volume
from medai.errors import InputError
from medai.geometry import VolumeGeometry
from medai.registry.model_registry import ModelRegistry
from medai.volume_io.readers import read_label_map
from medai.volume_io.writers import write_volume
from medai.workflows.infer_case import infer_click, infer_scan

SHAPE = (96, 90, 44)
NODULE_IJK = (60, 52, 21)


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A crop of lung with one 10 mm nodule and a vessel beside it, oblique and flipped."""
    angle = np.deg2rad(12)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-0.7, -0.7, 1.5])
    affine[:3, 3] = (40, 30, -90)
    geometry = VolumeGeometry(shape_ijk=SHAPE, affine_ijk_to_ras_mm=affine)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), axis=-1)
    image = np.random.default_rng(4).normal(-850, 30, SHAPE)
    image[np.linalg.norm((index - NODULE_IJK) * geometry.spacing_mm, axis=-1) < 5] += 880
    image[20:23, :, 14] += 850
    path = tmp_path_factory.mktemp("scan") / "case.nii.gz"
    write_volume(Volume(geometry=geometry, image_hu=np.clip(image, -1024, 3000).astype(np.int16)), path)
    return path


@pytest.fixture
def registry(tmp_path):
    return ModelRegistry(tmp_path / "models")


def test_a_click_from_file_to_file(scan, registry, tmp_path):
    out = tmp_path / "click.nrrd"
    outcome = infer_click(scan, foreground_ijk=[NODULE_IJK], registry=registry, out=out)
    written = read_label_map(out)
    assert list(written.label_names) == list(outcome.label_map.label_names)
    np.testing.assert_array_equal(written.labels, outcome.label_map.labels)
    assert written.labels[NODULE_IJK] == 1
    assert outcome.nodule.diameter_mm == pytest.approx(10, abs=2.5)
    figures = json.loads(json.dumps(outcome.to_json()))
    assert figures["model_versions"] == {"nodule_click": "starter"}
    assert figures["nodules"][0]["segment"].startswith("Nodule 1 - ")


def test_a_whole_crop_from_file_to_file(scan, registry, tmp_path):
    out, shares = tmp_path / "scan.nrrd", []
    outcome = infer_scan(scan, registry=registry, out=out, on_progress=shares.append)
    assert out.is_file()
    assert shares[-1] == pytest.approx(1.0)
    nearest = [
        np.linalg.norm(np.subtract(nodule.centre_ras_mm, outcome.prediction.geometry.ijk_to_ras(NODULE_IJK)))
        for nodule in outcome.prediction.nodules
    ]
    assert min(nearest) < 2
    written = read_label_map(out)
    assert list(written.label_names) == [n["segment"] for n in outcome.to_json()["nodules"]]
    assert set(outcome.to_json()["model_versions"]) == {
        "nodule_click",
        "nodule_detection",
        "nodule_classification",
    }
    assert all(nodule.side == "" for nodule in outcome.prediction.nodules)


def test_a_click_outside_the_scan_is_refused(scan, registry):
    with pytest.raises(InputError, match="outside the scan"):
        infer_click(scan, foreground_ijk=[(500, 1, 1)], registry=registry)


def test_the_scan_may_come_from_a_cache(scan, registry):
    asked = []

    def read(path):
        from medai.volume_io.readers import read_volume

        asked.append(path)
        return read_volume(path)

    infer_click(scan, foreground_ijk=[NODULE_IJK], registry=registry, read=read)
    assert asked == [scan]
