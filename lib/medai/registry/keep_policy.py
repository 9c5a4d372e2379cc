"""Which versions stay on disk: a bounded number of a bounded size, and never the ones that are needed.

Removing one is a rename out of the list and then the deletion, so that a process killed within it leaves no version
without weights.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medai.errors import InputError

logger = logging.getLogger(__name__)

DEFAULT_KEEP = 5
REMOVING_PREFIX = ".removing-"
"""Folders on their way out start with this; one that is left over belongs to a process that died."""
_MB = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepPolicy:
    """How much of a task's models stays on disk.

    Attributes:
        count: versions, at least 2.
        limit_mb: megabytes of all of them together; None: as many as ``count`` takes.
    """

    count: int = DEFAULT_KEEP
    limit_mb: float | None = None

    def __post_init__(self) -> None:
        if self.count < 2:
            raise InputError(
                f"A registry keeps the champion and its predecessor: 'keep' is {self.count}, it must be 2 or more."
            )
        if self.limit_mb is not None and self.limit_mb <= 0:
            raise InputError(f"A registry cannot keep its models within {self.limit_mb:g} MB: name more, or no limit.")

    def removable(
        self, versions: Sequence[str], size_of_version: Mapping[str, int], protected: Collection[str]
    ) -> list[str]:
        """The versions to remove, oldest first.

        Args:
            versions: those on disk, oldest first.
            size_of_version: version id to bytes.
            protected: what stays whatever it costs: the champion, its predecessor, and what is pinned. They count.
        """
        count, size_bytes = len(versions), sum(size_of_version[version_id] for version_id in versions)
        removed = []
        for version_id in versions:
            too_large = self.limit_mb is not None and size_bytes > self.limit_mb * _MB
            if count <= self.count and not too_large:
                break
            if version_id in protected:
                continue
            removed.append(version_id)
            count -= 1
            size_bytes -= size_of_version[version_id]
        return removed


def prune(versions_folder: Path, versions: Sequence[str], policy: KeepPolicy, protected: Collection[str]) -> None:
    """Remove the versions that a policy does not hold.

    Args:
        versions_folder: where they lie.
        versions: those on disk, oldest first.
        policy: what is held.
        protected: what stays in any case.
    """
    sizes = {version_id: folder_bytes(versions_folder / version_id) for version_id in versions}
    for version_id in policy.removable(versions, sizes, protected):
        remove_version(versions_folder / version_id)


def folder_bytes(folder: Path) -> int:
    """What the files of a folder hold together; a file that vanishes meanwhile counts nothing."""
    total = 0
    for path in folder.iterdir():
        try:
            total += path.stat().st_size
        except OSError:
            continue
    return total


def remove_version(folder: Path) -> None:
    """Remove a version's folder; where the disk refuses, it stays and the log says so."""
    away = folder.with_name(f"{REMOVING_PREFIX}{folder.name}")
    try:
        shutil.rmtree(away, ignore_errors=True)
        folder.rename(away)
    except OSError as error:
        logger.warning("%s could not be removed: %s", folder, error)
        return
    shutil.rmtree(away, ignore_errors=True)
