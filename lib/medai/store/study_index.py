"""``datastore_v2.json``: MONAI Label's own record of a study, read and replaced without losing what is in it.

The file is kept as the plain dictionary it is, so that keys of other versions of MONAI Label survive. Every write
leaves a copy in ``.medai``; a damaged file is never overwritten, it is set aside.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from medai.errors import StorageError
from medai.store.atomic import plain_json, publish, staged_file, write_bytes
from medai.store.layout import state_folder
from medai.store.listing import SETTLED_AFTER_S

INDEX_NAME = "datastore_v2.json"
BACKUP_NAME = "datastore_v2.backup.json"

RawIndex = dict[str, Any]
"""The file's content; treated as read-only once loaded, changes are made on copies."""

_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")
"""How a lone surrogate can stand in JSON; pairs of them and nothing else are found too."""

_logger = logging.getLogger(__name__)


class DamagedIndexError(StorageError):
    """The index is there and readable, but it is not what it should be."""


class StudyIndex:
    """The index file of one study.

    Threads: reading is safe from any; whoever writes holds the study's lock.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / INDEX_NAME
        self.backup_path = state_folder(folder) / BACKUP_NAME
        self._memory_lock = threading.Lock()
        self._signature: tuple[int, int, int] | None = None
        self._content: bytes | None = None
        self._raw = new_index()

    def load(self) -> RawIndex:
        """The present content; the same object while the file did not change.

        Raises:
            DamagedIndexError: the file holds something else than an index.
            StorageError: it cannot be read.
        """
        with self._memory_lock:
            return self._load()

    def _load(self) -> RawIndex:
        try:
            status = self.path.stat()
            signature = (status.st_mtime_ns, status.st_size, status.st_ino)
            if signature == self._signature:
                return self._raw
            content = self.path.read_bytes()
        except FileNotFoundError:
            if self._content is not None:
                self._raw, self._content, self._signature = new_index(), None, None
            return self._raw
        except OSError as error:
            raise StorageError(f"Cannot read {self.path}: {error.strerror}. Check its permissions.") from error
        if content != self._content:
            self._raw, self._content = _parse(content, self.path), content
        settled = time.time() - status.st_mtime > SETTLED_AFTER_S
        self._signature = signature if settled else None
        return self._raw

    @contextlib.contextmanager
    def staged(self, raw: RawIndex) -> Iterator[Callable[[], None]]:
        """Write ``raw`` beside the index, so that a full disk is met here; the function given publishes it."""
        content = _encode(raw)
        with staged_file(self.path) as staged:
            staged.write_bytes(content)

            def publish_index() -> None:
                with self._memory_lock:
                    publish(staged, self.path)
                    self._raw, self._content, self._signature = raw, content, None
                write_bytes(self.backup_path, content)

            yield publish_index

    def save(self, raw: RawIndex) -> None:
        """Replace the file."""
        with self.staged(raw) as publish_index:
            publish_index()

    def back_up(self) -> None:
        """Bring the backup up to date with what another program may have written."""
        content = self._content
        if content is not None and not (self.backup_path.is_file() and self.backup_path.read_bytes() == content):
            write_bytes(self.backup_path, content)

    def recover(self) -> None:
        """Put the backup in place of a damaged file, which is kept under another name.

        Raises:
            StorageError: there is no usable backup; nothing was changed.
        """
        try:
            content = self.backup_path.read_bytes()
            raw = _parse(content, self.backup_path)
        except (OSError, StorageError) as error:
            raise StorageError(
                f"{self.path} is damaged and there is no usable backup at {self.backup_path}; nothing was changed. "
                f"Restore it from your own backup, or move it away: medai then lists the images and labels it finds, "
                f"without the names of their segments."
            ) from error
        kept = self.path.with_name(f"{INDEX_NAME}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
        self.path.rename(kept)
        _logger.warning("%s was damaged: kept as %s, its last good copy is back in place", self.path, kept.name)
        self.save(raw)


def new_index() -> RawIndex:
    """The index of a study that has none, with MONAI Label's own defaults."""
    return {
        "name": "new-dataset",
        "description": "New Dataset",
        "images_dir": ".",
        "labels_dir": "labels",
        "objects": {},
    }


def _parse(content: bytes, path: Path) -> RawIndex:
    try:
        raw = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DamagedIndexError(f"{path} is damaged and was left as it is: {error}.") from error
    if not isinstance(raw, dict) or not isinstance(raw.setdefault("objects", {}), dict):
        raise DamagedIndexError(f"{path} is damaged and was left as it is: it holds no table of objects.")
    for case_id, entry in raw["objects"].items():
        if not _is_entry(entry):
            raise DamagedIndexError(f"{path} is damaged and was left as it is: the entry of {case_id!r} has no image.")
    return raw if not _HALF_CHARACTER.search(content) else _mended(raw)


def _mended(raw: RawIndex) -> RawIndex:
    """The index without half characters in what is said of cases; ids are left, they are file names."""
    objects = {case_id: plain_json(entry) for case_id, entry in raw["objects"].items()}
    return {**plain_json({key: value for key, value in raw.items() if key != "objects"}), "objects": objects}


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("image"), dict):
        return False
    labels = entry.get("labels", {})
    return isinstance(labels, dict) and all(isinstance(label, dict) for label in labels.values())


def _encode(raw: RawIndex) -> bytes:
    """One case a line: readable, and ten times faster than the standard library's indented form."""
    head = [f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in raw.items() if key != "objects"]
    cases = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in raw["objects"].items())
    return ("{\n" + "".join(head) + '"objects": {\n' + cases + "\n}\n}\n").encode()
