"""Memory of rounds: fresh pages cost more than the network, as the kernel clears each of them."""

import mmap
import sys

import torch
from torch import Tensor

from distqatd.compute.payload import torch_sink
from distqatd.wire.payload import TensorSpec

KEPT_BYTES = 64 << 20
"""Received chunks that a daemon keeps for the next ones: 16 of the largest kind."""

_HUGE_FROM_BYTES = 4 << 20
"""Vectors from this size on are put in huge pages: 2 MiB each, less than half is left over."""


class ChunkMemory:
    """Buffers that chunks are received into, used again once their values have been added up.

    Only free buffers are held here: one that is never given back is simply freed.
    """

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        """Keep at most `kept_bytes` of free buffers."""
        self._room_bytes = kept_bytes
        self._free: dict[int, list[memoryview]] = {}

    def sink(self, spec: TensorSpec) -> memoryview:
        """Return a buffer to receive `spec` into; what it holds is arbitrary."""
        free = self._free.get(spec.nbytes)
        if not free:
            return torch_sink(spec)
        self._room_bytes += spec.nbytes
        return free.pop()

    def give_back(self, buffer: memoryview) -> None:
        """Take a buffer that `sink` made and that nobody reads or writes any more."""
        if buffer.nbytes <= self._room_bytes:
            self._room_bytes -= buffer.nbytes
            self._free.setdefault(buffer.nbytes, []).append(buffer)


def empty_vector(num_values: int) -> Tensor:
    """Return uninitialised float32 (num_values,) on the CPU, in huge pages where that pays."""
    num_bytes = 4 * num_values
    if num_bytes < _HUGE_FROM_BYTES or sys.platform != "linux":
        return torch.empty(num_values)
    pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=torch.float32)
