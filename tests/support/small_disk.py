"""A real disk of a few megabytes (tmpfs) that a test can fill to the last byte."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_BLOCK_BYTES = 4096


class SmallDisk:
    """The mounted disk.

    Args:
        folder: where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, *, leave_bytes: int = 0) -> None:
        """Fill the disk but for so many bytes."""
        self.free()
        with self._ballast.open("wb", buffering=0) as file:
            while (spare := self.spare_bytes() - leave_bytes) >= _BLOCK_BYTES:
                try:
                    file.write(bytes(min(spare, 1 << 20) // _BLOCK_BYTES * _BLOCK_BYTES))
                except OSError:
                    return

    def free(self) -> None:
        """Make room again."""
        self._ballast.unlink(missing_ok=True)

    def spare_bytes(self) -> int:
        status = os.statvfs(self.folder)
        return int(status.f_bavail * status.f_frsize)


@contextmanager
def small_disk(folder: Path, *, megabytes: int) -> Iterator[SmallDisk]:
    """Mount a disk for a test; skips, with the reason, where this user may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no disk to fill: {error}")
    if mounted.returncode != 0:
        pytest.skip(f"no disk to fill: this user may not mount one ({mounted.stderr.strip()})")
    try:
        yield SmallDisk(folder)
    finally:
        # Lazily: a cache or a log may still be open.
        subprocess.run(["umount", "-l", str(folder)], check=False)
