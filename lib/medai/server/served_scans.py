"""The file a client is given for a case: the scan's own, or a copy that 3D Slicer reads.

3D Slicer from 5.8 on opens a file whose axes are left-handed (a LAS NIfTI, as dcm2niix writes it) with the k axis
reversed, so its voxel indices are not the file's; older ones and scripts keep the file's. So that an index means the
same to all, such a scan is handed out as a copy with k reversed, and indices in requests count on that grid (a request
may say ``"index_frame": "file"`` instead). Masks lie where they lie in the patient either way. A file that 3D Slicer
does not open or misreads (NIfTI-2, bzip2, compressed MetaImage without its size) is handed out as a copy too.

Threads: any; a lock for each copy, held while it is written. Copies are complete or absent (temporary name, rename).
"""

from __future__ import annotations

import contextlib
import glob
import logging
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Protocol

import numpy as np

from medai.domain import Volume
from medai.geometry import IndexBox, VolumeGeometry
from medai.store.atomic import ABANDONED_AFTER_S
from medai.store.study import StudyStore
from medai.volume_io.readers import is_for_slicer, read_geometry
from medai.volume_io.writers import write_volume

logger = logging.getLogger(__name__)

REVERSED_AXIS = 2
KEPT_COPIES = 20
"""Copies kept on disk, last used first: a session's worth; another one takes seconds to make."""


class ScanSource(Protocol):
    """Decoded scans; ``volume_io.scan_cache.ScanCache`` is one."""

    def get(self, path: Path, case_id: str = "") -> Volume:
        """The scan."""
        ...


class ServedScans:
    """What clients are given for each case of a study.

    Args:
        study: the scans.
        scans: decodes them.
        folder: where copies are kept.
    """

    def __init__(self, study: StudyStore, scans: ScanSource, folder: Path) -> None:
        self._study = study
        self._scans = scans
        self._folder = folder
        self._lock = threading.Lock()
        self._copy_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._needs_copy: dict[tuple[str, int, int], bool] = {}

    def path(self, case_id: str) -> Path:
        """The file to give away; makes the copy where one is needed and missing (seconds for a large scan)."""
        target = self.expected_path(case_id)
        source = self._study.image_path(case_id)
        if target == source or target.is_file():
            return target
        with self._lock:
            copy_lock = self._copy_locks[target.name]
        with copy_lock:
            if not target.is_file():
                self._folder.mkdir(parents=True, exist_ok=True)
                volume = self._scans.get(source, case_id)
                write_volume(right_handed(volume) if volume.geometry.is_left_handed else volume, target)
                logger.info("Made a copy of %s for 3D Slicer", case_id)
                self._drop_old(target)
        return target

    def expected_path(self, case_id: str) -> Path:
        """Where that file lies or will lie: cheap, it reads a header at most."""
        source = self._study.image_path(case_id)
        status = source.stat()
        key = (str(source), status.st_size, status.st_mtime_ns)
        with self._lock:
            needs_copy = self._needs_copy.get(key)
        if needs_copy is None:
            needs_copy = read_geometry(source).is_left_handed or not is_for_slicer(source)
            with self._lock:
                self._needs_copy[key] = needs_copy
        return self._folder / f"{case_id}.{status.st_mtime_ns:x}.nii.gz" if needs_copy else source

    def forget(self, case_id: str) -> None:
        """Drop the copies of a scan that is gone."""
        for path in self._folder.glob(f"{glob.escape(case_id)}.*.nii.gz"):
            if path.name.removeprefix(f"{case_id}.").count(".") == 2:
                path.unlink(missing_ok=True)

    def _drop_old(self, newest: Path) -> None:
        for leftover in self._folder.glob(".*.part"):
            # Of a server that was killed while it wrote one.
            with contextlib.suppress(OSError):
                if time.time() - leftover.stat().st_mtime > ABANDONED_AFTER_S:
                    leftover.unlink()
        copies = sorted(self._folder.glob("*.nii.gz"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in [path for path in copies if path != newest][KEPT_COPIES - 1 :]:
            path.unlink(missing_ok=True)


def right_handed(volume: Volume) -> Volume:
    """The same scan with its k axis reversed."""
    return Volume(
        geometry=volume.geometry.with_axis_reversed(REVERSED_AXIS),
        image_hu=np.flip(volume.image_hu, REVERSED_AXIS),
        case_id=volume.case_id,
        header=volume.header,
    )


def index_in_file(index_ijk: tuple[int, int, int], geometry: VolumeGeometry) -> tuple[int, int, int]:
    """Turn a voxel index of the file clients have been given into one of the scan's own file, or back."""
    if not geometry.is_left_handed:
        return index_ijk
    i, j, k = index_ijk
    return (i, j, geometry.shape_ijk[REVERSED_AXIS] - 1 - k)


def box_in_file(box: IndexBox, geometry: VolumeGeometry) -> IndexBox:
    """The same for a box of voxels."""
    if not geometry.is_left_handed:
        return box
    (i0, j0, k0), (i1, j1, k1) = box.start_ijk, box.stop_ijk
    depth = geometry.shape_ijk[REVERSED_AXIS]
    return IndexBox(start_ijk=(i0, j0, depth - k1), stop_ijk=(i1, j1, depth - k0))
