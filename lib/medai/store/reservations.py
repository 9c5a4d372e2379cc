"""Who works on which case, so that two annotators never get the same one at once, and who has passed over which.

The record is one small file in the study, changed under a lock: it holds across threads, processes and restarts.

Rules:

- A case handed out is kept from every other client until its label is submitted or nothing was heard of the client for
  the time to live; so a client that crashed frees its case by itself. Sixty minutes by default: a chest CT with several
  nodules takes up to half an hour of manual outlining without one request to the server, and a reservation that ends
  too early costs double work, while one that ends too late only delays one case among many. Every click or inference on
  the case renews it.
- "Next" means next: a client that asks again without having submitted has skipped what it had. That case is free for
  others at once and comes back to the client itself last, the one skipped longest ago first. The Slicer plugin closes
  its scene on Next Sample, so a case that comes back is loaded again; where a second window still shows the case, the
  next click on it takes the reservation back, if nobody else has the case by then. A client is whoever sends that id:
  the server must make ids of different annotators differ (the plugin calls everyone unnamed "user-xyz").
- A clock that jumps holds no case for longer, and ends no reservation early. Moments are kept with the time the machine
  has been up (``clock``), which no jump touches. Where only the wall clock can tell (after a restart, from another
  machine on the same share), a reservation from the future was written by a clock that was wrong: it is over.
- What a client submitted last is remembered, so that the same patient's other study can come next.
- A damaged record is started anew, with a warning: it only steers who gets what, no annotation depends on it.

Lock order: the lock of the reservations is taken before anything of the study store; the store never takes this one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medai.errors import ConflictError
from medai.store.atomic import write_json
from medai.store.clock import Moment, machine_now, wall_only
from medai.store.layout import state_folder
from medai.store.locks import ExclusiveLock

DEFAULT_TTL_S = 3600.0

CLOCK_STEP_S = 5.0
"""What a clock may be put back by without ending reservations that only the wall clock can judge."""

SKIPS_KEPT_S = 30 * 24 * 3600.0
"""Whoever passed over a case a month ago may look at it again."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """One case held by one client.

    Attributes:
        case_id: the case.
        client_id: who holds it.
        since_s: when it was handed out last, seconds since the epoch.
        until_s: when it ends without renewal, seconds since the epoch.
        since: the first, beyond jumps of the clock; None in a record of before that was kept.
        renewed: when something was heard of the client last, likewise.
        ttl_s: how long after that it ends, seconds.
    """

    case_id: str
    client_id: str
    since_s: float
    until_s: float
    since: Moment | None = None
    renewed: Moment | None = None
    ttl_s: float = DEFAULT_TTL_S

    def seconds_held(self, now: Moment) -> float:
        """Since it was handed out."""
        return max(0.0, (self.since or Moment(wall_s=self.since_s)).seconds_until(now))

    def seconds_left(self, now: Moment) -> float:
        """Until it ends; 0 where it has, or where a clock that was wrong has written it."""
        silent_s = (self.renewed or Moment(wall_s=self.until_s - self.ttl_s)).seconds_until(now)
        return max(0.0, self.ttl_s - silent_s) if silent_s >= -CLOCK_STEP_S else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a client may be given.

    Attributes:
        free: cases that need a label, that no one holds and that this client has not skipped.
        held: cases that others hold.
        submitted: what this client submitted last; None before that.
    """

    free: Sequence[str]
    held: Sequence[str]
    submitted: str | None = None


@dataclass(slots=True, kw_only=True)
class _State:
    """The record: reservations by case, skipped cases of each client (oldest first), and what each submitted last."""

    held: dict[str, Reservation] = field(default_factory=dict)
    skips: dict[str, dict[str, float]] = field(default_factory=dict)
    submitted: dict[str, str] = field(default_factory=dict)

    def skip(self, case_id: str, client_id: str, at_s: float) -> None:
        skips = self.skips.setdefault(client_id, {})
        # Anew at the end: the order is that of skipping.
        skips.pop(case_id, None)
        skips[case_id] = at_s

    def forget_skips(self, case_id: str, client_id: str | None = None) -> None:
        for client in [client_id] if client_id is not None else list(self.skips):
            self.skips.get(client, {}).pop(case_id, None)


class Reservations:
    """The reservations of one study; any thread, any process."""

    def __init__(self, studies: Path, *, ttl_s: float = DEFAULT_TTL_S, now: Callable[[], float] | None = None) -> None:
        """Open the reservations of a study.

        Args:
            studies: the study folder.
            ttl_s: how long a case is kept for a silent client, seconds.
            now: a wall clock, seconds since the epoch; None: this machine's clock and the time it has been up.
        """
        folder = state_folder(studies)
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "reservations.json"
        self._lock = ExclusiveLock(folder / "reservations.lock")
        self._ttl_s = ttl_s
        self._now = machine_now if now is None else wall_only(now)

    def active(self) -> list[Reservation]:
        """What is reserved now, oldest first."""
        return list(self._read().held.values())

    def holder(self, case_id: str) -> str | None:
        """The client that holds the case, if one does."""
        held = self._read().held.get(case_id)
        return held.client_id if held else None

    def seconds_held(self, reservation: Reservation) -> float:
        """How long a case has been out, seconds, whatever the clock did meanwhile."""
        return reservation.seconds_held(self._now())

    def skipped(self, client_id: str) -> list[str]:
        """The cases a client has passed over, longest ago first."""
        return list(self._read().skips.get(client_id, {}))

    def all_skipped(self) -> dict[str, list[str]]:
        """The same of every client that has passed over any."""
        return {client_id: list(cases) for client_id, cases in self._read().skips.items() if cases}

    def choose(
        self,
        client_id: str,
        *,
        open_cases: Callable[[], Sequence[str]],
        select: Callable[[Offer], str | None],
    ) -> str | None:
        """Pick a case for a client and reserve it, as one step.

        Args:
            client_id: who asks; what it holds it has skipped.
            open_cases: gives the cases that still need a label; called under the lock, so that a case submitted a
                moment ago is not handed out again.
            select: picks one of the free cases of an offer, or None.

        Returns:
            The case, or None where every open case is held by someone else.
        """
        with self._lock.hold():
            state, now = self._read(), self._now()
            open_list = open_cases()
            open_set = set(open_list)
            for reservation in [r for r in state.held.values() if r.client_id == client_id]:
                del state.held[reservation.case_id]
                state.skip(reservation.case_id, client_id, now.wall_s)
            # What was labelled since needs no remembering.
            skips = {case_id: at_s for case_id, at_s in state.skips.get(client_id, {}).items() if case_id in open_set}
            state.skips[client_id] = skips
            free = [case_id for case_id in open_list if case_id not in state.held and case_id not in skips]
            offer = Offer(free=free, held=tuple(state.held), submitted=state.submitted.get(client_id))
            chosen = select(offer) if free else None
            if chosen is None:
                chosen = next((case_id for case_id in skips if case_id not in state.held), None)
            if chosen is not None:
                self._reserve(state, chosen, client_id)
            self._write(state)
            return chosen

    def reserve(self, case_id: str, client_id: str) -> Reservation:
        """Hold a case for a client; its own reservation is renewed.

        Raises:
            ConflictError: another client holds it.
        """
        with self._lock.hold():
            state = self._read()
            other = state.held.get(case_id)
            if other is not None and other.client_id != client_id:
                minutes = other.seconds_left(self._now()) / 60
                raise ConflictError(
                    f"Case '{case_id}' is being annotated by another client, for at most {minutes:.0f} more minutes. "
                    "Ask for the next case."
                )
            state.forget_skips(case_id, client_id)
            reservation = self._reserve(state, case_id, client_id)
            self._write(state)
            return reservation

    def renew(self, case_id: str, client_id: str) -> bool:
        """Extend a reservation the client has, or has skipped while nobody else took the case.

        Returns:
            False where it has none (any more). Writes at most once a minute.
        """
        held = self._read().held.get(case_id)
        is_own = held is not None and held.client_id == client_id
        if is_own and held and held.seconds_left(self._now()) > self._ttl_s - min(60.0, self._ttl_s / 10):
            return True
        if held is not None and not is_own:
            return False
        with self._lock.hold():
            state = self._read()
            held = state.held.get(case_id)
            if held is None and case_id in state.skips.get(client_id, {}):
                state.forget_skips(case_id, client_id)
                self._reserve(state, case_id, client_id)
            elif held is not None and held.client_id == client_id:
                now = self._now()
                state.held[case_id] = replace(held, until_s=now.wall_s + self._ttl_s, renewed=now, ttl_s=self._ttl_s)
            else:
                return False
            self._write(state)
            return True

    def submitted(self, case_id: str) -> None:
        """A label of the case has come in: its reservation ends, and its holder is remembered to have submitted it."""
        with self._lock.hold():
            state = self._read()
            held = state.held.pop(case_id, None)
            if held is not None:
                state.submitted[held.client_id] = case_id
            state.forget_skips(case_id)
            self._write(state)

    def release(self, case_id: str) -> None:
        """End the reservation of a case, whoever holds it, and forget who skipped it: the case is gone."""
        with self._lock.hold():
            state = self._read()
            state.held.pop(case_id, None)
            state.forget_skips(case_id)
            self._write(state)

    def _reserve(self, state: _State, case_id: str, client_id: str) -> Reservation:
        now = self._now()
        new = Reservation(
            case_id=case_id,
            client_id=client_id,
            since_s=now.wall_s,
            until_s=now.wall_s + self._ttl_s,
            since=now,
            renewed=now,
            ttl_s=self._ttl_s,
        )
        # The newest goes last, so that the order of the file is the order of handing out.
        state.held.pop(case_id, None)
        state.held[case_id] = new
        return new

    def _write(self, state: _State) -> None:
        cases = {reservation.case_id: _record(reservation) for reservation in state.held.values()}
        skips = {client_id: cases for client_id, cases in state.skips.items() if cases}
        write_json(self._path, {"cases": cases, "skips": skips, "submitted": state.submitted})

    def _read(self) -> _State:
        try:
            content = json.loads(self._path.read_bytes())
            state = _State(
                held=_alive(content["cases"], self._now(), self._ttl_s),
                skips={
                    str(client_id): _recent(cases, self._now().wall_s)
                    for client_id, cases in content.get("skips", {}).items()
                },
                submitted={str(client): str(case_id) for client, case_id in content.get("submitted", {}).items()},
            )
        except FileNotFoundError:
            return _State()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            _logger.warning("%s is unreadable and is started anew: %s", self._path, error)
            return _State()
        return state


def next_of_patient(offer: Offer, siblings: Callable[[str], Iterable[str]]) -> str | None:
    """The free study of the patient whom the client has just finished another study of; None without one.

    Args:
        offer: what the client may be given.
        siblings: the cases of a case's patient.
    """
    if offer.submitted is None:
        return None
    free = set(offer.free)
    return next((case_id for case_id in sorted(siblings(offer.submitted)) if case_id in free), None)


def without_others_patients(offer: Offer, siblings: Callable[[str], Iterable[str]]) -> Sequence[str]:
    """The free cases less those of patients whom somebody else is at work on; all where nothing else is left."""
    theirs = {case_id for held in offer.held for case_id in siblings(held)}
    if not theirs:
        return offer.free
    return [case_id for case_id in offer.free if case_id not in theirs] or offer.free


def _record(reservation: Reservation) -> dict[str, Any]:
    kept = {
        "client_id": reservation.client_id,
        "since_s": reservation.since_s,
        "until_s": reservation.until_s,
        "ttl_s": reservation.ttl_s,
    }
    for name, moment in (("since", reservation.since), ("renewed", reservation.renewed)):
        if moment is not None:
            kept[name] = {"wall_s": moment.wall_s, "up_s": moment.up_s, "boot_id": moment.boot_id}
    return kept


def _alive(cases: dict[str, Any], now: Moment, ttl_s: float) -> dict[str, Reservation]:
    held = [
        Reservation(
            case_id=case_id,
            client_id=str(record["client_id"]),
            since_s=float(record["since_s"]),
            until_s=float(record["until_s"]),
            since=_moment(record.get("since")),
            renewed=_moment(record.get("renewed")),
            # Who handed it out may have another time to live than who looks.
            ttl_s=float(record.get("ttl_s", ttl_s)),
        )
        for case_id, record in cases.items()
    ]
    return {r.case_id: r for r in held if r.seconds_left(now) > 0}


def _moment(record: Any) -> Moment | None:
    if record is None:
        return None
    up_s = record["up_s"]
    return Moment(
        wall_s=float(record["wall_s"]), up_s=None if up_s is None else float(up_s), boot_id=str(record["boot_id"])
    )


def _recent(cases: dict[str, Any], now_s: float) -> dict[str, float]:
    """What was skipped in the last month; what a wrong clock wrote into the future counts from now."""
    at_s = {str(case_id): min(float(at_s), now_s) for case_id, at_s in cases.items()}
    return {case_id: at_s[case_id] for case_id in at_s if at_s[case_id] > now_s - SKIPS_KEPT_S}
