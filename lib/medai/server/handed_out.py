"""Scans that a login was just given, for the one download that 3D Slicer makes without sending the login.

The Slicer module of MONAI Label 0.8.5 asks for the next sample with its token, and then fetches the scan's file with
Slicer's own downloader, which knows of no token: behind logins every Next Sample would end in an error. So the address
that a login was given a case at may download that case's file for ``HANDED_OUT_S``, and the audit log names the login.
It covers that one file; ``--conf slicer_downloads=off`` ends it.

Threads: the event loop alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from monailabel.endpoints.user.auth import User

HANDED_OUT_S = 120.0
"""Slicer downloads at once."""

MOST_HANDED_OUT = 1000


class HandedOut:
    """Who was given which case where, a moment ago."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._given: dict[tuple[str, str], tuple[float, User]] = {}

    def give(self, case_id: str, address: str, user: User) -> None:
        """Remember that a login was given a case."""
        self._given.pop((case_id, address), None)
        self._given[case_id, address] = (self._now() + HANDED_OUT_S, user)
        while len(self._given) > MOST_HANDED_OUT:
            del self._given[next(iter(self._given))]

    def user_of(self, case_id: str, address: str) -> User | None:
        """The login that was given a case at an address; None where that is too long ago."""
        until_s, user = self._given.get((case_id, address), (0.0, None))
        return user if user is not None and self._now() < until_s else None
