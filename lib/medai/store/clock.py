"""Times that outlive a jump of the clock: how long this machine has been up, beside what its clock says.

A wall clock is set by hand, put right by NTP, and wrong after a laptop slept. How long the machine has been up (sleep
included) does none of that and is the same for all its processes, but says nothing after a restart or to another
machine. A moment therefore holds both; the time up counts where it is of the same boot.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A point in time.

    Attributes:
        wall_s: by the machine's clock, seconds since 1970.
        up_s: since the machine started, sleep included; None where that is not known.
        boot_id: which start that was; "" where it is not known.
    """

    wall_s: float
    up_s: float | None = None
    boot_id: str = ""

    def seconds_until(self, later: Moment) -> float:
        """From here to there: exact within one boot, else as the wall clock says."""
        if self.boot_id and self.boot_id == later.boot_id and self.up_s is not None and later.up_s is not None:
            return later.up_s - self.up_s
        return later.wall_s - self.wall_s


def machine_now() -> Moment:
    """This moment."""
    boot_id = _boot_id()
    if not boot_id:
        return Moment(wall_s=time.time())
    return Moment(wall_s=time.time(), up_s=time.clock_gettime(time.CLOCK_BOOTTIME), boot_id=boot_id)


def wall_only(now: Callable[[], float]) -> Callable[[], Moment]:
    """Moments of a wall clock alone."""
    return lambda: Moment(wall_s=now())


@functools.cache
def _boot_id() -> str:
    """Which start of the machine this is; "" on systems that do not say (other than Linux)."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip() if hasattr(time, "CLOCK_BOOTTIME") else ""
    except (OSError, UnicodeDecodeError):
        return ""
