"""What the end-to-end tests share: the real 3D Slicer libraries, the synthetic scans and one server, started once."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.support.scan_factory import SyntheticScan, make_scan, named_geometry, write_file
from tests.support.server_process import ServerProcess
from tests.support.slicer_annotator import SlicerAnnotator
from tests.support.slicer_client import SlicerScene, slicer_python

CASES = {"axial": ".nii.gz", "oblique": ".nrrd", "flipped": ".nii.gz", "mirrored": ".nii.gz"}
"""Case to format; the names are the grids of ``scan_factory``."""


@pytest.fixture(scope="session")
def _slicer_process() -> Iterator[SlicerScene]:
    if not slicer_python().is_file():
        pytest.skip(f"no 3D Slicer libraries: MEDAI_SLICER_PYTHON names {slicer_python()}, which does not exist")
    with SlicerScene() as scene:
        yield scene


@pytest.fixture
def slicer_scene(_slicer_process: SlicerScene) -> SlicerScene:
    """An empty scene of 3D Slicer; skips where slicer-core is not installed."""
    _slicer_process.clear()
    return _slicer_process


@pytest.fixture(scope="session")
def scans() -> dict[str, SyntheticScan]:
    """A scan with two nodules for each grid."""
    rng = np.random.default_rng(20240301)
    return {name: make_scan(named_geometry(name), rng) for name in CASES}


@pytest.fixture(scope="session")
def study(
    _slicer_process: SlicerScene, scans: dict[str, SyntheticScan], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The scans of ``scans`` and one without nodules, "healthy", as files."""
    folder = tmp_path_factory.mktemp("study")
    healthy = make_scan(named_geometry("axial"), np.random.default_rng(3), diameters_mm=None)
    write_file(healthy.volume.image_hu, healthy.geometry, folder / "healthy.nii.gz")
    for name, scan in scans.items():
        write_file(scan.volume.image_hu, scan.geometry, folder / f"{name}{CASES[name]}")
    return folder


@pytest.fixture(scope="session")
def server(study: Path) -> Iterator[ServerProcess]:
    """The real server over ``study``."""
    with ServerProcess(study) as process:
        yield process


@pytest.fixture
def annotator(server: ServerProcess, slicer_scene: SlicerScene, tmp_path: Path) -> SlicerAnnotator:
    """An annotator who has just connected to the server."""
    annotator = SlicerAnnotator(slicer_scene, server.url, tmp_path)
    annotator.fetch_info()
    return annotator
