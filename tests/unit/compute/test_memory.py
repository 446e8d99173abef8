import platform
import subprocess
import sys

import pytest

from distqatd.compute import memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")

ARENA = """
import ctypes, threading
from distqatd.compute.memory import keep_freed_memory
assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
found = []
thread = threading.Thread(target=lambda: found.append(libc.malloc(1000)))
thread.start()
thread.join()
main = libc.malloc(1000)
print(abs(found[0] - main) < 1 << 26)
"""

FAULTS = """
import ctypes, resource, sys
from distqatd.compute.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def step():
    blocks = [libc.malloc(1 << 20) for _ in range(8)]
    for block in blocks:
        libc.memset(block, 1, 1 << 20)
    for block in reversed(blocks):
        libc.free(block)
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(code: str, *argv: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *argv],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_thread_allocates_beside_the_main_thread():
    assert run(ARENA) == "True"


def test_memory_that_a_step_frees_is_not_faulted_in_again_by_the_next():
    assert int(run(FAULTS, "default")) > 10_000
    assert int(run(FAULTS, "keep")) < 1_000


def test_free_memory_is_told_in_steps_and_zero_where_it_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    assert memory.free_bytes("cpu") == 0
    (tmp_path / "meminfo").write_text("MemTotal: 100000 kB\nMemAvailable:   50000 kB\n")
    assert memory.free_bytes("cpu") == 48 << 20


def test_an_expert_takes_a_multiple_of_its_parameters():
    assert memory.training_bytes(1_000_000) == 32_000_000
