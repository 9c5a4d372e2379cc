"""The allocator of a real process, asked what it holds."""

import subprocess
import sys

import pytest

# Many threads allocate and free small objects of the C library; what the process holds of it is printed in megabytes.
HOLD = """
import ctypes, sys, threading
from medai.server import memory
if sys.argv[1] == "bounded":
    memory.bound_heaps()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
together = threading.Barrier(16)
def work():
    together.wait()
    held = [libc.malloc(60_000) for _ in range(300)]
    for place in held:
        ctypes.memset(place, 1, 60_000)
    together.wait()
    for place in held[:-1]:
        libc.free(place)
threads = [threading.Thread(target=work) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6
before = resident_mb()
memory.give_back()
print(before, resident_mb())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for what a process holds")
@pytest.mark.parametrize("kind", ["bounded", "as it is"])
def test_free_memory_goes_back_to_the_system(kind: str):
    done = subprocess.run([sys.executable, "-c", HOLD, kind], capture_output=True, text=True, check=True)
    before, after = (float(text) for text in done.stdout.split())
    assert before - after > 100
