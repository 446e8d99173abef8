"""Memory: how this process asks for it, how much is free, how much an expert takes."""

import ctypes
from pathlib import Path

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
"""`mallopt` parameters of glibc [source: mallopt(3)]."""

_KEEP_BYTES = 256 << 20
"""Free memory at the end of the heap that is kept for the next step."""

_MMAP_BYTES = 32 << 20
"""Tensors from this size on get pages of their own; the most that glibc takes."""


def keep_freed_memory() -> bool:
    """Have glibc keep what a step frees for the next one; return whether this C library can.

    By default it gives memory back to the kernel after large tensors, and faults it in again, page
    by page: 1200 faults and 2.5 ms of a 28 ms step of a small ResNet. A thread of its own even
    gets an arena of its own, that is given back sooner. So all threads share the main arena (only
    one of ours allocates much), which keeps up to 256 MiB. Call it before other threads start.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc: nothing to mend
        return False
    wanted = {
        _M_ARENA_MAX: 1,
        _M_TRIM_THRESHOLD: _KEEP_BYTES,
        _M_MMAP_THRESHOLD: _MMAP_BYTES,
    }
    return all(mallopt(parameter, value) for parameter, value in wanted.items())


BYTES_PER_PARAM = 32
"""What a parameter takes in training, float32: itself, its gradient, two moments of AdamW, the
anchor, the outer momentum, and two buffers while a round runs."""


def training_bytes(num_params: int) -> int:
    """Return about how many bytes an expert with so many parameters takes, activations aside."""
    return num_params * BYTES_PER_PARAM


_MEMINFO = Path("/proc/meminfo")
_ROUND_BYTES = 16 << 20


def free_bytes(device: str) -> int:
    """Return the memory that a device has left, in steps of 16 MiB; 0 if that is not known.

    For CPU and MPS it is what Linux calls available: free, or given back when asked for.
    """
    if device.startswith("cuda"):
        import torch  # not at the top: a daemon without experts never loads it

        return int(torch.cuda.mem_get_info(device)[0]) // _ROUND_BYTES * _ROUND_BYTES
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:  # no Linux
        return 0
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 // _ROUND_BYTES * _ROUND_BYTES if found else 0
