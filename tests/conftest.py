"""What every test may use: where the real scans are, and a seeded generator."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from medai.cli.environment import THREAD_DEFAULTS

# Before numpy and torch are imported, as the command does it; the processes that tests start inherit it.
os.environ.update({name: os.environ.get(name, value) for name, value in THREAD_DEFAULTS.items()})

import numpy as np
import pytest

PROJECT_ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans (MEDAI_REAL_DATA, default ../shared/data); skips where it is absent."""
    folder = Path(os.environ.get("MEDAI_REAL_DATA", PROJECT_ROOT / ".." / "shared" / "data")).resolve()
    if not (folder / "lidc_nodules" / "nodules.csv").is_file():
        pytest.skip(f"no real scans at {folder}: set MEDAI_REAL_DATA to the folder that holds lidc_nodules/ and dicom/")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(20240229)


@pytest.fixture(autouse=True)
def _temporary_folder_stands() -> Iterator[None]:
    """A test that leaves Python's folder for temporary files at one that is gone would fail all that follow."""
    yield
    folder = tempfile.tempdir
    if folder and not Path(folder).is_dir():
        tempfile.tempdir = None
        pytest.fail(f"this test left tempfile.tempdir at {folder}, which is gone")
