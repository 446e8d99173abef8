"""Memory that processes share."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distqatd.base.errors import ComputeError, RemoteProtocolError
from distqatd.data.ring import Ring, RingSize, allocate, ring_size
from distqatd.data.source import Raw

DTYPES = (torch.uint8, torch.int64, torch.float32, torch.bfloat16, torch.bool)


def made(size: RingSize, folder: Path) -> Ring:
    memory = allocate(size.nbytes, folder)
    try:
        return Ring(memory.fd, size)
    finally:
        os.close(memory.fd)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(st.lists(st.integers(0, 5), max_size=3))
    dtype = draw(st.sampled_from(DTYPES))
    return torch.randint(0, 2, shape).to(dtype)


@settings(deadline=None)
@given(st.lists(tensors(), min_size=1, max_size=3), st.lists(tensors(), max_size=2))
def test_what_is_written_is_read(inputs: list[Tensor], targets: list[Tensor]) -> None:
    raw: Raw = tuple(inputs), tuple(targets)
    size = ring_size(raw, 3, 1 << 20)
    ring = made(RingSize(3, size.slot_bytes + 4096), Path("/tmp"))
    other = torch.full((7,), 3), torch.zeros(0)
    for slot in (1, 2, 0):
        ring.write(slot, raw)
    ring.write(2, ((other[0],), (other[1],)))
    for slot in (0, 1):
        for mine, theirs in zip(raw, ring.read(slot), strict=True):
            assert len(mine) == len(theirs)
            for one, same in zip(mine, theirs, strict=True):
                assert one.dtype == same.dtype
                assert torch.equal(one, same)


def test_another_process_reads_it_where_it_lies(tmp_path: Path) -> None:
    size = RingSize(2, 1 << 16)
    memory = allocate(size.nbytes, tmp_path)
    ring = Ring(memory.fd, size)
    ring.write(1, ((torch.arange(6).view(2, 3),), (torch.tensor([5.0, 6.0]),)))
    code = (
        "from distqatd.data.ring import *\n"
        f"ring = Ring({memory.fd}, RingSize(2, {1 << 16}))\n"
        "(a,), (b,) = ring.read(1)\n"
        "print(a.tolist(), b.tolist())\n"
        "a[0, 0] = 9\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], pass_fds=(memory.fd,), capture_output=True, check=True
    )
    os.close(memory.fd)
    assert done.stdout.decode() == "[[0, 1, 2], [3, 4, 5]] [5.0, 6.0]\n"
    assert ring.read(1)[0][0][0, 0] == 9


def test_only_what_lies_in_the_ring_is_copied(tmp_path: Path) -> None:
    ring = made(RingSize(2, 8192), tmp_path)
    ring.write(0, ((torch.ones(4),), ()))
    (view,), _ = ring.read(0)
    copy, own = ring.own(view), torch.ones(4)
    ring.write(0, ((torch.zeros(4),), ()))
    assert view.tolist() == [0.0] * 4
    assert copy.tolist() == [1.0] * 4
    assert ring.own(own) is own


def test_the_size_follows_from_a_batch_and_two_slots_always_have_room() -> None:
    raw: Raw = (torch.zeros(64, 1000),), (torch.zeros(64, dtype=torch.int64),)
    assert ring_size(raw, 16, 1 << 30).num_slots == 16
    assert ring_size(raw, 16, 2_000_000).num_slots == 6
    assert ring_size(raw, 16, 1).num_slots == 2
    assert ring_size(raw, 16, 1).slot_bytes >= 64 * 1008


def test_a_batch_that_is_too_large_is_refused_with_both_sizes(tmp_path: Path) -> None:
    ring = made(RingSize(2, 8192), tmp_path)
    with pytest.raises(ComputeError, match=r"12096 bytes does not fit into a slot of 8192"):
        ring.write(0, ((torch.zeros(2000),), ()))


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xff\xff\xff" + b"{",
        b"\x02\x00\x00\x00{}",
        b'\x2c\x00\x00\x00{"inputs":1,"tensors":[["uint8",[99],8190]]}',
        b'\x2b\x00\x00\x00{"inputs":1,"tensors":[["uint8",[9],-90]]}',
        b'\x2a\x00\x00\x00{"inputs":1,"tensors":[["nosuch",[9],0]]}',
    ],
)
def test_a_slot_that_holds_no_batch_is_refused(tmp_path: Path, garbage: bytes) -> None:
    size = RingSize(2, 8192)
    memory = allocate(size.nbytes, tmp_path)
    os.pwrite(memory.fd, garbage, 8192)
    with pytest.raises(RemoteProtocolError, match="slot 1"):
        Ring(memory.fd, size).read(1)
    with pytest.raises(RemoteProtocolError, match="no slot 2"):
        Ring(memory.fd, size).read(2)
    with pytest.raises(RemoteProtocolError, match="16384 bytes"):
        Ring(memory.fd, RingSize(3, 8192))
    os.close(memory.fd)


def test_where_there_is_no_memory_a_file_without_a_name_takes_its_place(tmp_path: Path) -> None:
    def full(_: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    memory = allocate(1 << 16, tmp_path, full)
    assert memory.why_file == "No space left on device"
    assert [*tmp_path.iterdir()] == []
    ring = Ring(memory.fd, RingSize(2, 1 << 15))
    os.close(memory.fd)
    ring.write(1, ((torch.arange(3),), ()))
    assert ring.read(1)[0][0].tolist() == [0, 1, 2]
    (line,) = (x for x in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in x)
    assert line.endswith("(deleted)")


def test_memory_that_cannot_be_reserved_is_given_back(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    # A directory cannot be reserved: like a small tmpfs, it fails only when asked for room.
    memory = allocate(4096, tmp_path, lambda _: os.open(tmp_path, os.O_RDONLY))
    assert memory.why_file
    os.close(memory.fd)
    assert len(os.listdir("/proc/self/fd")) == before


def test_nothing_of_a_ring_has_a_name(tmp_path: Path) -> None:
    ring = made(RingSize(4, 1 << 16), tmp_path)
    ring.write(0, ((torch.ones(2),), ()))
    (line,) = (x for x in Path("/proc/self/maps").read_text().splitlines() if "-batches" in x)
    assert line.endswith("/memfd:distqat-batches (deleted)")
