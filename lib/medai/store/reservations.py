"""Who works on which case, so that two annotators never get the same one at once.

The record is one small file in the study, changed under a lock: it holds across threads, processes and restarts.

Rules:

- A case handed out is kept from every other client until its label is submitted (``release``) or nothing was heard of
  the client for the time to live. Sixty minutes by default: a chest CT with several nodules takes up to half an hour of
  manual outlining without one request to the server, and a reservation that ends too early costs double work, while one
  that ends too late only delays one case among many. Every click or inference on the case renews it.
- "Next" means next: a client that asks again without having submitted gets another case. What it was given before stays
  reserved for it (it may still be open in a second window) and comes back, oldest first, when nothing else is left. The
  Slicer plugin closes its scene on Next Sample, so a case that comes back is loaded again. A client is whoever sends
  that id: the server must make ids of different annotators differ (the plugin calls everyone unnamed "user-xyz").
- A damaged record is started anew, with a warning: it only steers who gets what, no annotation depends on it.

Lock order: the lock of the reservations is taken before anything of the study store; the store never takes this one.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medai.errors import ConflictError
from medai.store.atomic import write_json
from medai.store.layout import state_folder
from medai.store.locks import ExclusiveLock

DEFAULT_TTL_S = 3600.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """One case held by one client.

    Attributes:
        case_id: the case.
        client_id: who holds it.
        since_s: when it was handed out last, seconds since the epoch.
        until_s: when it ends without renewal, seconds since the epoch.
    """

    case_id: str
    client_id: str
    since_s: float
    until_s: float


class Reservations:
    """The reservations of one study; any thread, any process."""

    def __init__(self, studies: Path, *, ttl_s: float = DEFAULT_TTL_S, now: Callable[[], float] = time.time) -> None:
        """Open the reservations of a study.

        Args:
            studies: the study folder.
            ttl_s: how long a case is kept for a silent client, seconds.
            now: the clock, seconds since the epoch.
        """
        folder = state_folder(studies)
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "reservations.json"
        self._lock = ExclusiveLock(folder / "reservations.lock")
        self._ttl_s = ttl_s
        self._now = now

    def active(self) -> list[Reservation]:
        """What is reserved now, oldest first."""
        return list(self._read().values())

    def holder(self, case_id: str) -> str | None:
        """The client that holds the case, if one does."""
        held = self._read().get(case_id)
        return held.client_id if held else None

    def choose(
        self,
        client_id: str,
        *,
        open_cases: Callable[[], Sequence[str]],
        select: Callable[[Sequence[str]], str | None],
    ) -> str | None:
        """Pick a case for a client and reserve it, as one step.

        Args:
            client_id: who asks.
            open_cases: gives the cases that still need a label; called under the lock, so that a case submitted a
                moment ago is not handed out again.
            select: picks one of the cases it is given (those no one holds), or None.

        Returns:
            The case, or None where every open case is held by someone else.
        """
        with self._lock.hold():
            held = self._read()
            wanted = open_cases()
            chosen = select([case_id for case_id in wanted if case_id not in held])
            if chosen is None:
                open_set = set(wanted)
                own = (r.case_id for r in held.values() if r.client_id == client_id and r.case_id in open_set)
                chosen = next(own, None)
            if chosen is not None:
                self._write_reserved(held, chosen, client_id)
            return chosen

    def reserve(self, case_id: str, client_id: str) -> Reservation:
        """Hold a case for a client; its own reservation is renewed.

        Raises:
            ConflictError: another client holds it.
        """
        with self._lock.hold():
            held = self._read()
            other = held.get(case_id)
            if other is not None and other.client_id != client_id:
                minutes = (other.until_s - self._now()) / 60
                raise ConflictError(
                    f"Case '{case_id}' is being annotated by another client, for at most {minutes:.0f} more minutes. "
                    "Ask for the next case."
                )
            return self._write_reserved(held, case_id, client_id)

    def renew(self, case_id: str, client_id: str) -> bool:
        """Extend a reservation the client has; False where it has none (any more). Writes at most once a minute."""
        held = self._read().get(case_id)
        if held is None or held.client_id != client_id:
            return False
        if held.until_s - self._now() > self._ttl_s - min(60.0, self._ttl_s / 10):
            return True
        with self._lock.hold():
            everything = self._read()
            held = everything.get(case_id)
            if held is None or held.client_id != client_id:
                return False
            renewed = Reservation(
                case_id=case_id, client_id=client_id, since_s=held.since_s, until_s=self._now() + self._ttl_s
            )
            self._write({**everything, case_id: renewed})
            return True

    def release(self, case_id: str) -> None:
        """End the reservation of a case, whoever holds it: its label is submitted, or the case is gone."""
        if case_id not in self._read():
            return
        with self._lock.hold():
            self._write({key: value for key, value in self._read().items() if key != case_id})

    def _write_reserved(self, held: dict[str, Reservation], case_id: str, client_id: str) -> Reservation:
        now = self._now()
        new = Reservation(case_id=case_id, client_id=client_id, since_s=now, until_s=now + self._ttl_s)
        # The newest goes last, so that the order of the file is the order of handing out.
        self._write({**{key: value for key, value in held.items() if key != case_id}, case_id: new})
        return new

    def _write(self, held: dict[str, Reservation]) -> None:
        cases = {
            r.case_id: {"client_id": r.client_id, "since_s": r.since_s, "until_s": r.until_s} for r in held.values()
        }
        write_json(self._path, {"cases": cases})

    def _read(self) -> dict[str, Reservation]:
        try:
            cases = json.loads(self._path.read_bytes())["cases"]
            held = [_reservation(case_id, record) for case_id, record in cases.items()]
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            _logger.warning("%s is unreadable and is started anew: %s", self._path, error)
            return {}
        now = self._now()
        return {r.case_id: r for r in held if r.until_s > now}


def _reservation(case_id: str, record: dict[str, Any]) -> Reservation:
    return Reservation(
        case_id=case_id,
        client_id=str(record["client_id"]),
        since_s=float(record["since_s"]),
        until_s=float(record["until_s"]),
    )
