"""Batches in memory that several processes map: written once, read where they lie.

The memory has no name: it is a file descriptor, which is handed from process to process, so that
nothing of it is left when the last of them ends, however it ends. It holds no lock: who may use
which slot is said over the socket, see `slots`.
"""

import json
import mmap
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distqatd.base.errors import ComputeError, RemoteProtocolError
from distqatd.data.source import Raw

_ALIGNMENT = 64
_HEADER_BYTES = 4096
_MAX_TENSORS = 32
_PAGE = 4096
_ROOM = 1.25
"""A slot has room for batches a little larger than the first one."""


@dataclass(frozen=True, slots=True)
class RingSize:
    """How much memory a ring takes."""

    num_slots: int
    slot_bytes: int

    @property
    def nbytes(self) -> int:
        """Return the bytes of all slots."""
        return self.num_slots * self.slot_bytes


def ring_size(batch: Raw, max_slots: int, max_bytes: int) -> RingSize:
    """Return the size of a ring for batches like `batch`; two slots also where they exceed it."""
    inputs, targets = batch
    payload = sum(_padded(tensor.nbytes) for tensor in (*inputs, *targets))
    slot_bytes = -(-int(_HEADER_BYTES + payload * _ROOM) // _PAGE) * _PAGE
    return RingSize(max(2, min(max_slots, max_bytes // slot_bytes)), slot_bytes)


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory to share, as a file descriptor that its holder closes.

    Attributes:
        why_file: why it is a file on disk, which is slower; empty if it is memory.
    """

    fd: int
    why_file: str = ""


def allocate(nbytes: int, folder: Path, create: Callable[[str], int] | None = None) -> Memory:
    """Reserve memory to share; where there is none left, a file in `folder` without a name.

    Args:
        nbytes: how much; all of it is there when this returns.
        folder: on a disk with room.
        create: makes a descriptor of memory; default: the kernel's `memfd_create`, whose memory
            is no part of /dev/shm and not bound by its size.
    """
    make = create or os.memfd_create
    try:
        fd = make("distqat-batches")
    except OSError as error:
        return Memory(_file(nbytes, folder), error.strerror or str(error))
    try:
        os.posix_fallocate(fd, 0, nbytes)
    except OSError as error:
        os.close(fd)
        return Memory(_file(nbytes, folder), error.strerror or str(error))
    return Memory(fd)


def _file(nbytes: int, folder: Path) -> int:
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, nbytes)
        return os.dup(file.fileno())


class Ring:
    """The slots, as one process sees them. The descriptor may be closed once this is made."""

    def __init__(self, fd: int, size: RingSize) -> None:
        """Map the memory.

        Raises:
            RemoteProtocolError: it is smaller than that.
        """
        if os.fstat(fd).st_size < size.nbytes or size.num_slots < 1:
            raise RemoteProtocolError(f"a ring of {size} has {os.fstat(fd).st_size} bytes")
        self.size = size
        self._map = mmap.mmap(fd, size.nbytes, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        self._start = torch.frombuffer(self._map, dtype=torch.uint8).data_ptr()

    def write(self, slot: int, batch: Raw) -> None:
        """Put a batch into a slot.

        Raises:
            ComputeError: it does not fit.
        """
        inputs, targets = batch
        place = _HEADER_BYTES
        layout: list[tuple[str, list[int], int]] = []
        for tensor in (*inputs, *targets):
            dtype = str(tensor.dtype).removeprefix("torch.")
            layout.append((dtype, list(tensor.shape), place))
            place += _padded(tensor.nbytes)
        header = json.dumps({"inputs": len(inputs), "tensors": layout}).encode()
        if place > self.size.slot_bytes or len(header) > _HEADER_BYTES - 4:
            raise ComputeError(
                f"a batch of {place} bytes does not fit into a slot of {self.size.slot_bytes}"
            )
        offset = slot * self.size.slot_bytes
        self._map[offset : offset + 4] = len(header).to_bytes(4, "little")
        self._map[offset + 4 : offset + 4 + len(header)] = header
        for tensor, (_, _, start) in zip((*inputs, *targets), layout, strict=True):
            self._view(offset + start, tensor.dtype, tensor.shape).copy_(tensor)

    def read(self, slot: int) -> Raw:
        """Return what lies in a slot: views of the memory, to be used before the slot is let go.

        Raises:
            RemoteProtocolError: it holds no batch.
        """
        if not 0 <= slot < self.size.num_slots:
            raise RemoteProtocolError(f"the ring has no slot {slot}")
        offset = slot * self.size.slot_bytes
        length = int.from_bytes(self._map[offset : offset + 4], "little")
        try:
            header = json.loads(self._map[offset + 4 : offset + 4 + min(length, _HEADER_BYTES)])
            tensors = [self._described(offset, *item) for item in header["tensors"][:_MAX_TENSORS]]
            return tuple(tensors[: header["inputs"]]), tuple(tensors[header["inputs"] :])
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise RemoteProtocolError(f"slot {slot} of the ring is no batch: {error}") from error

    def own(self, tensor: Tensor) -> Tensor:
        """Return the tensor, copied if it lies in the ring."""
        lies_here = self._start <= tensor.data_ptr() < self._start + self.size.nbytes
        return tensor.clone() if lies_here else tensor

    def _described(self, offset: int, name: str, shape: list[int], start: int) -> Tensor:
        dtype = getattr(torch, name)
        nbytes = torch.Size(shape).numel() * dtype.itemsize
        if not _HEADER_BYTES <= start <= start + nbytes <= self.size.slot_bytes:
            raise ValueError(f"a tensor of {nbytes} bytes at {start}")
        return self._view(offset + start, dtype, torch.Size(shape))

    def _view(self, start: int, dtype: torch.dtype, shape: torch.Size) -> Tensor:
        if not shape.numel():
            return torch.empty(shape, dtype=dtype)
        count: Any = shape.numel()
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=start).view(shape)


def _padded(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT
