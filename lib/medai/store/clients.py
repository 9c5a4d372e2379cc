"""By which names annotators call themselves and from where, so that two people under one name are noticed.

Without logins a name is all that tells annotators apart: whoever shares one shares reservations and history. The Slicer
module calls everyone ``user-xyz`` who has set no name. The record is one small file beside the study, for
``medai status``; losing it costs a warning, nothing else.

Threads: any.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medai.errors import StorageError
from medai.store.atomic import write_json
from medai.store.layout import state_folder

ANONYMOUS = "user-xyz"
"""What the Slicer plugin calls an annotator who gave no name."""

REMEMBERED_S = 7 * 24 * 3600.0
MOST_NAMES = 500
MOST_ADDRESSES = 20
_REWRITE_S = 3600.0
"""A name and address seen again are written again after this, so that they stay remembered."""

_WHERE = "In 3D Slicer: Edit > Application Settings > MONAI Label > Client/User-ID"

logger = logging.getLogger(__name__)


class Clients:
    """The names and addresses of one study's annotators."""

    def __init__(self, studies: Path, *, now: Callable[[], float] = time.time) -> None:
        """Open the record of a study; a damaged one is started anew."""
        self._path = state_folder(studies) / "clients.json"
        self._now = now
        self._lock = threading.Lock()
        self._seen: dict[str, dict[str, float]] = self._read()
        self._warned: set[str] = set()
        self._is_saved, self._is_save_asked = True, False

    def seen(self, client_id: str, address: str) -> bool:
        """Take note of a name and where it came from; warns in the log, once a name.

        Returns:
            Whether ``save`` is to be called; not again while a call that will hold this one is on its way: a crowd
            that arrives at once costs one write.
        """
        with self._lock:
            now = self._now()
            addresses = self._seen.pop(client_id, {})
            # The newest goes last, so that the oldest are forgotten.
            self._seen[client_id] = addresses
            is_due = address not in addresses or not 0 <= now - addresses[address] < _REWRITE_S
            if is_due:
                addresses.pop(address, None)
                addresses[address] = now
            while len(addresses) > MOST_ADDRESSES:
                del addresses[next(iter(addresses))]
            while len(self._seen) > MOST_NAMES:
                del self._seen[next(iter(self._seen))]
            self._is_saved &= not is_due
            to_save = not self._is_saved and not self._is_save_asked
            self._is_save_asked |= to_save
            warning = self._warning(client_id)
            is_new = warning is not None and client_id not in self._warned
            if is_new:
                self._warned.add(client_id)
        if is_new:
            logger.warning("%s", warning)
        return to_save

    def warnings(self) -> list[str]:
        """A sentence for each name that does not tell annotators apart, with what to do."""
        with self._lock:
            found = (self._warning(client_id) for client_id in self._seen)
            return [warning for warning in found if warning is not None]

    def postpone_save(self) -> None:
        """Nobody could be found to call ``save``: the next one seen asks for it again."""
        with self._lock:
            self._is_save_asked = False

    def save(self) -> None:
        """Write the record; a disk that refuses costs nothing but the warning after a restart."""
        with self._lock:
            self._is_saved, self._is_save_asked = True, False
            content = {client_id: dict(addresses) for client_id, addresses in self._seen.items()}
        try:
            self._path.parent.mkdir(exist_ok=True)
            write_json(self._path, content)
        except (StorageError, OSError) as error:
            logger.warning("Who annotates from where is not remembered: %s", error)

    def _warning(self, client_id: str) -> str | None:
        now = self._now()
        # A stamp from the future is a clock that was put right since.
        recent = [address for address, at_s in self._seen[client_id].items() if abs(now - at_s) < REMEMBERED_S]
        if not recent:
            return None
        if client_id == ANONYMOUS:
            return (
                f"Somebody annotates as '{ANONYMOUS}' (from {', '.join(recent)}), the name 3D Slicer gives to everyone "
                f"who has set none: nobody can tell whose labels these are. {_WHERE}, a name for each annotator."
            )
        if len(recent) < 2:
            return None
        return (
            f"'{client_id}' annotates from {len(recent)} addresses ({', '.join(recent)}): one person who moves, or "
            f"several under one name, whose labels nobody can tell apart. {_WHERE}, a name for each annotator."
        )

    def _read(self) -> dict[str, dict[str, float]]:
        try:
            content: Any = json.loads(self._path.read_bytes())
            return {
                str(client_id): {str(address): float(at_s) for address, at_s in addresses.items()}
                for client_id, addresses in content.items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            logger.warning("%s is unreadable and is started anew: %s", self._path, error)
            return {}
