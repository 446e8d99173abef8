import platform
import subprocess
import sys

import pytest

CODE = """
import ctypes, threading
from distqatd.compute.memory import use_one_arena
assert use_one_arena()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
found = []
thread = threading.Thread(target=lambda: found.append(libc.malloc(1000)))
thread.start()
thread.join()
main = libc.malloc(1000)
print(abs(found[0] - main) < 1 << 26)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has arenas")
def test_a_thread_allocates_beside_the_main_thread():
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.strip() == "True", done.stderr
