"""What the server's memory allocator keeps of memory that nobody uses any more.

glibc gives every few threads a heap of their own and keeps what is freed in them: after fifty thousand requests forty
threads held nearly 500 MB more than at its start, with nothing left over in it. Two heaps are enough, since
numpy, torch and OpenVINO allocate what is large apart from them; and what lies free in them is given back now and then.

Elsewhere than on glibc both functions do nothing.
"""

from __future__ import annotations

import ctypes
import sys

HEAPS = 2
GIVE_BACK_EVERY_S = 60.0
_M_ARENA_MAX = -8


def bound_heaps() -> None:
    """Let the allocator make at most ``HEAPS`` heaps; before threads are started."""
    mallopt = _function("mallopt")
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, HEAPS)


def give_back() -> None:
    """Return free memory to the system; takes some milliseconds."""
    malloc_trim = _function("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _function(name: str) -> ctypes._NamedFuncPointer | None:
    """A function of the C library that this process runs on."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), name, None)
