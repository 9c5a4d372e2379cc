"""Processes share one decode."""

import subprocess
import sys

import numpy as np

from medai.domain import Volume
from medai.geometry import VolumeGeometry
from medai.volume_io.writers import write_volume

_ASK = """
import logging, sys
from pathlib import Path
from medai.volume_io.scan_cache import ScanCache
logging.basicConfig(level=logging.INFO)
cache = ScanCache(Path(sys.argv[1]), memory_bytes=10**9, disk_bytes=10**9)
sys.stdin.readline()
print(int(cache.get(Path(sys.argv[2])).image_hu.sum(dtype="int64")))
cache.close()
"""


def test_processes_decode_once(tmp_path, rng):
    geometry = VolumeGeometry(shape_ijk=(200, 210, 100), affine_ijk_to_ras_mm=np.diag([-0.7, -0.8, 2.5, 1]))
    image_hu = rng.integers(-1024, 3000, size=geometry.shape_ijk).astype(np.int16)
    write_volume(Volume(geometry=geometry, image_hu=image_hu), tmp_path / "scan.nii.gz")
    command = [sys.executable, "-c", _ASK, str(tmp_path / "cache"), str(tmp_path / "scan.nii.gz")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(3)]
    answers = [process.communicate("\n", timeout=60) for process in processes]
    assert {out.strip() for out, _ in answers} == {str(image_hu.sum(dtype="int64"))}
    assert sum(err.count("decoded scan.nii.gz") for _, err in answers) == 1
