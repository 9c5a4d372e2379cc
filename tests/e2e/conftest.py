"""What the end-to-end tests share: the real 3D Slicer libraries, started once."""

from collections.abc import Iterator

import pytest
from tests.support.slicer_client import SlicerScene, slicer_python


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
