"""Which scan the labels of a case were drawn on: known by its content, so that another one never inherits them.

A file is known by what it holds, read in a few places: of a gzip file the length and checksum at its end, which are
those of the content however well it was compressed, else its size and a hash of blocks spread over it. A file whose
size and times are as they were is not read at all. ``.medai/identities.json`` remembers it of every labelled case.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from medai.store.atomic import write_json
from medai.store.layout import state_folder
from medai.store.unreadable import FileState, file_state

_logger = logging.getLogger(__name__)

_BLOCK_BYTES = 16 << 10
_BLOCKS = 16
_GZIP = b"\x1f\x8b"


def scan_identity(path: Path) -> str:
    """What a scan file is known by; a millisecond.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        head = stream.read(2)
        size = stream.seek(0, 2)
        stream.seek(max(0, size - 8))
        tail = stream.read(8)
        # Shorter than it is compressed: an empty last block, or the content's length beyond 4 GiB.
        if head == _GZIP and len(tail) == 8 and int.from_bytes(tail[4:], "little") > size // 2:
            return f"gzip {tail.hex()}"
        digest = hashlib.sha256()
        for n in range(_BLOCKS):
            stream.seek(max(0, (size - _BLOCK_BYTES) * n // (_BLOCKS - 1)))
            digest.update(stream.read(_BLOCK_BYTES))
    return f"{size} {digest.hexdigest()[:32]}"


class ScanIdentities:
    """The scans of one study's labels; whoever changes them holds the study's lock."""

    def __init__(self, studies: Path) -> None:
        self._path = state_folder(studies) / "identities.json"
        self._known: dict[str, tuple[FileState, str]] | None = None
        self._read_at: tuple[int, int] | None = None

    def is_as_it_was(self, case_id: str, scan: Path) -> bool:
        """Whether a case's scan is, by its file's size and times, the one that was noted."""
        known = self._all().get(case_id)
        return known is not None and known[0] == file_state(scan)

    def is_replaced(self, case_id: str, scan: Path) -> bool:
        """Whether a case's scan is another one than was noted; False where none was, or it cannot be read now."""
        known = self._all().get(case_id)
        if known is None or known[0] == file_state(scan):
            return False
        try:
            return scan_identity(scan) != known[1]
        except OSError as error:
            _logger.warning("The scan of %s cannot be looked at: %s", case_id, error)
            return False

    def note(self, scans: dict[str, Path]) -> None:
        """Note which scans cases have now.

        Raises:
            StorageError: the disk refused.
        """
        found: dict[str, tuple[FileState, str]] = {}
        for case_id, scan in scans.items():
            state = file_state(scan)
            if state is None or self.is_as_it_was(case_id, scan):
                continue
            try:
                found[case_id] = (state, scan_identity(scan))
            except OSError as error:
                _logger.warning("The scan of %s cannot be looked at: %s", case_id, error)
        if found:
            self._write({**self._all(), **found})

    def forget(self, case_id: str) -> None:
        """Forget a case's scan."""
        if case_id in self._all():
            self._write({key: value for key, value in self._all().items() if key != case_id})

    def _all(self) -> dict[str, tuple[FileState, str]]:
        try:
            status = self._path.stat()
        except OSError:
            return {}
        stamp = (status.st_mtime_ns, status.st_ino)
        if self._known is None or stamp != self._read_at:
            self._known, self._read_at = _parsed(self._path), stamp
        return self._known

    def _write(self, known: dict[str, tuple[FileState, str]]) -> None:
        write_json(self._path, {case_id: [*state, identity] for case_id, (state, identity) in known.items()})


def _parsed(path: Path) -> dict[str, tuple[FileState, str]]:
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        return {
            case_id: ((str(name), int(size), int(changed_ns), int(permitted_ns)), str(identity))
            for case_id, (name, size, changed_ns, permitted_ns, identity) in content.items()
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        _logger.warning("%s is unreadable and is started anew: %s", path, error)
        return {}
