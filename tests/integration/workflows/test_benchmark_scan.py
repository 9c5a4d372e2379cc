import json

import numpy as np
import pytest
from typer.testing import CliRunner

from medai.cli.bench import app
from medai.domain import Volume
from medai.errors import InputError
from medai.geometry import VolumeGeometry
from medai.registry import ModelRegistry
from medai.volume_io.writers import write_volume
from medai.workflows.benchmark_scan import bench_scan


@pytest.fixture
def registry(tmp_path):
    """Untrained small networks: how long they take does not depend on what they know."""
    import torch

    from medai.inference.detect import Calibration
    from medai.networks.checkpoint import save_checkpoint
    from medai.networks.factory import build_network, network_tensors
    from medai.training.candidate_trainer import judge_checkpoint
    from medai.workflows.starter_detection import write_detector

    starters = tmp_path / "starters"
    network = {"channels_in": 5, "channels_out": 2, "channels": [2, 4], "blocks": [1, 1]}
    config = {"network": "residual_unet", "network_options": network}
    second_look = {"fill": 0.55, "finest_mm": 0.5, "coarsest_mm": 2.4}
    config |= {"task": "nodule_click", "patch_shape": [32, 32, 32], "spacing_mm": 0.9, **second_look}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        click, detection = build_network(config), build_network({"network": "candidate_network"}).eval()
    for task in ("nodule_click", "nodule_detection"):
        (starters / task).mkdir(parents=True)
        (starters / task / "card.json").write_text("{}")
    save_checkpoint(starters / "nodule_click" / "weights.safetensors", network_tensors(click), config)
    write_detector(
        starters / "nodule_detection" / "weights.safetensors",
        None,
        judge_checkpoint(detection),
        calibrations={"blobs": Calibration(judge=1.0, shift=5.0)},
        candidates="blobs",
    )
    return ModelRegistry(tmp_path / "models", starter_folder=starters)


@pytest.fixture
def scan(tmp_path, rng):
    """Two lungs with balls in them, on a small anisotropic grid."""
    geometry = VolumeGeometry(shape_ijk=(80, 66, 50), affine_ijk_to_ras_mm=np.diag([-4.0, -4.0, 5.0, 1.0]))
    i, j, k = np.indices(geometry.shape_ijk)
    image_hu = np.full(geometry.shape_ijk, -1000.0)
    image_hu[((i - 40) / 36) ** 2 + ((j - 33) / 28) ** 2 < 1] = 40
    for centre in (24, 56):
        image_hu[((i - centre) / 12) ** 2 + ((j - 33) / 18) ** 2 + ((k - 25) / 20) ** 2 < 1] = -850
        image_hu[((i - centre) * 4.0) ** 2 + ((j - 33) * 4.0) ** 2 + ((k - 25) * 5.0) ** 2 < 9.0**2] = 30
    image_hu += rng.normal(0, 15, geometry.shape_ijk)
    path = tmp_path / "scan.nii.gz"
    write_volume(Volume(geometry=geometry, image_hu=image_hu.astype(np.int16)), path)
    return path


def test_stages_add_up_and_the_networks_are_part_of_them(scan, registry):
    figures = bench_scan(scan, registry=registry, device="cpu")
    assert set(figures["stages"]) == {"decode", "lungs", "candidates", "outline", "encode"}
    assert figures["total_s"] == pytest.approx(sum(figures["stages"].values()))
    assert 0 < figures["network_s"] <= figures["stages"]["candidates"] + figures["stages"]["outline"]
    assert figures["outside_networks_s"] == pytest.approx(figures["total_s"] - figures["network_s"])
    assert figures["outside_networks_s"] > figures["stages"]["lungs"]
    assert figures["first_total_s"] > 0
    assert figures["voxels"] == 80 * 66 * 50


def test_the_command_writes_the_seconds_in_and_outside_the_networks(scan, registry, tmp_path, monkeypatch):
    monkeypatch.setattr("medai.workflows.benchmark_scan.open_registry", lambda studies: registry)
    answer = tmp_path / "figures.json"
    ran = CliRunner().invoke(app, ["scan", "--image", str(scan), "--json", str(answer)])
    assert ran.exit_code == 0, ran.output
    figures = json.loads(answer.read_text())
    assert {"network_s", "outside_networks_s"} < figures.keys()
    assert figures["network_s"] + figures["outside_networks_s"] == pytest.approx(figures["total_s"])


def test_a_missing_scan_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no scan .*absent\.nii\.gz"):
        bench_scan(tmp_path / "absent.nii.gz")
