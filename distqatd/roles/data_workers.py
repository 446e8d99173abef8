"""Processes that prepare batches side by side for a data server (`data.num_workers`).

    python -m distqatd.roles.data_workers RING_FD NUM_SLOTS SLOT_BYTES

A worker's standard input is the Job, a line of JSON, then a line `{slot, key}` for every batch that
it shall put into the ring; it answers each with a line. It ends when its input does, so with the
server, however that dies. Which batch lies where is the server's to say: the order of batches
does not depend on how many workers there are, nor on which of them is faster.
"""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from distqatd.base.errors import ComputeError, DistqatError
from distqatd.data.batches import Dataset, open_dataset
from distqatd.data.ring import Ring, RingSize
from distqatd.data.slots import Fill, validation_index
from distqatd.roles.data_calls import Job

PREPARE_S = 60.0
"""A batch may take so long, seconds; that of a worker's start included."""

MAX_REASON = 1000

Say = Callable[..., None]


def prepare(dataset: Dataset, ring: Ring, fill: Fill) -> None:
    """Put a batch into its slot.

    Raises:
        DistqatError: it cannot be read, or does not fit.
    """
    index = validation_index(fill.key)
    raw = dataset.read(fill.key) if index is None else dataset.read_validation(index)
    ring.write(fill.slot, raw)


class Workers:
    """The server's side: as many processes as were asked for, each with one batch at a time."""

    def __init__(self, job: Job, ring_fd: int, size: RingSize, say: Say) -> None:
        """Prepare to start them, when there is something to do.

        Args:
            job: what they prepare.
            ring_fd: the ring's memory.
            size: its shape.
            say: told of one that has ended.
        """
        self.num = job.data.num_workers
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()
        for _ in range(self.num):
            self._idle.put_nowait(_Worker(job, ring_fd, size, say))

    async def prepare(self, fill: Fill) -> None:
        """Have a worker that is free put a batch into its slot.

        Raises:
            ComputeError: it cannot, or has ended; the next batch gets another one.
        """
        worker = await self._idle.get()
        try:
            await worker.prepare(fill)
        finally:
            self._idle.put_nowait(worker)


class _Worker:
    def __init__(self, job: Job, ring_fd: int, size: RingSize, say: Say) -> None:
        self._job, self._ring_fd, self._size, self._say = job, ring_fd, size, say
        self._process: Process | None = None

    async def prepare(self, fill: Fill) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            process = self._process = await self._start()
        line = b""
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(PREPARE_S):
                line = await _ask(process, {"slot": fill.slot, "key": fill.key})
        if not line:
            await self._end(process)
            raise ComputeError(f"the worker that prepared batch {fill.key} has ended")
        reason = json.loads(line)["failed"]
        if reason:
            raise ComputeError(str(reason)[:MAX_REASON])

    async def _start(self) -> Process:
        size = self._size
        arguments = [str(number) for number in (self._ring_fd, size.num_slots, size.slot_bytes)]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "distqatd.roles.data_workers", *arguments),
            stdin=PIPE,
            stdout=PIPE,
            pass_fds=(self._ring_fd,),
        )
        assert process.stdin is not None  # noqa: S101  PIPE
        process.stdin.write(self._job.to_json().encode() + b"\n")
        return process

    async def _end(self, process: Process) -> None:
        """Make sure that a worker which does not answer is gone, and tell."""
        with suppress(ProcessLookupError):
            process.kill()
        code = await process.wait()
        self._process = None
        self._say("data.worker_ended", degraded=True, pid=process.pid, code=code)


async def _ask(process: Process, question: dict[str, Any]) -> bytes:
    if process.stdin is None or process.stdout is None:
        return b""
    process.stdin.write(json.dumps(question).encode() + b"\n")
    await process.stdin.drain()
    return await process.stdout.readline()


def _answer(dataset: Dataset, ring: Ring, line: str) -> str:
    """Do what a line asks for; return why it could not be done, or nothing."""
    asked = json.loads(line)
    try:
        prepare(dataset, ring, Fill(asked["slot"], asked["key"]))
    except (DistqatError, OSError) as error:
        return str(error) or type(error).__name__
    return ""


def main() -> int:
    """Run as the child that it is; return the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # as the server, whose end is ours
    job = Job.from_json(sys.stdin.readline())
    ring_fd, num_slots, slot_bytes = (int(argument) for argument in sys.argv[1:])
    ring = Ring(ring_fd, RingSize(num_slots, slot_bytes))
    os.close(ring_fd)
    dataset = open_dataset(job.data, job.seed, job.batch_size)
    for line in sys.stdin:
        sys.stdout.write(json.dumps({"failed": _answer(dataset, ring, line)}) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
