"""The data server: a child of a daemon that prepares batches for all trainers of its machine.

    python -m distqatd.roles.data_server LISTENING_FD

Its standard input is the Job, a line of JSON, and then stays open as long as the parent lives,
which may end us in order by another line; each line that it writes to standard output is an event.
It ends when nobody has needed it for a minute; the parent, whose listening socket it shares, starts
another one when a trainer asks.
Exit code 78: the data cannot be used as configured.
"""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from distqatd import __version__
from distqatd.base.errors import DistqatError, RemoteProtocolError
from distqatd.base.rng import system_rng
from distqatd.base.tasks import Supervisor
from distqatd.compute.executor import DeviceExecutor, Executor
from distqatd.data.batches import Dataset, open_dataset
from distqatd.data.ring import Memory, Ring, RingSize, allocate, ring_size
from distqatd.data.slots import Fail, Fill, Give, Instruction, Slots
from distqatd.roles import data_calls as calls
from distqatd.roles.data_workers import Workers, prepare
from distqatd.roles.packets import Packets, is_ours
from distqatd.wire.fields import need

IDLE_S = 60.0
REFUSING_S = 2.0
"""A server that cannot open the data says so to whoever asks within so long, seconds."""

Say = Callable[..., None]


class DataServer:
    """Accepts trainers and does what `Slots` decides."""

    def __init__(
        self,
        dataset: Dataset,
        ring: Ring,
        memory: Memory,
        executor: Executor,
        tasks: Supervisor,
        workers: Workers | None = None,
    ) -> None:
        """Serve what `workers` prepare, or without any a thread of our own, one at a time."""
        self._dataset = dataset
        self._ring = ring
        self._memory = memory
        self._executor = executor
        self._tasks = tasks
        self._workers = workers
        self._slots = Slots(ring.size.num_slots, workers.num if workers is not None else 1)
        self._links: dict[int, Packets] = {}
        self._next_trainer = 0
        self.changed = asyncio.Event()

    @property
    def num_trainers(self) -> int:
        """Return how many trainers are connected."""
        return self._slots.num_trainers

    def accept(self, link: socket.socket) -> None:
        """Take a trainer in."""
        trainer, self._next_trainer = self._next_trainer, self._next_trainer + 1
        if not is_ours(link) or not self._slots.join(trainer):
            link.close()
            return
        self._links[trainer] = Packets(
            link, partial(self._on_packet, trainer), partial(self._on_closed, trainer)
        )
        self.changed.set()

    def say_goodbye(self) -> None:
        """Tell all trainers that the end is an orderly one."""
        for link in [*self._links.values()]:
            link.send({"do": calls.BYE, "reason": "its daemon stops"})

    def _on_closed(self, trainer: int, _: str) -> None:
        self._links.pop(trainer, None)
        self._do(self._slots.leave(trainer))
        self.changed.set()

    def _on_packet(self, trainer: int, packet: dict[str, Any], fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)
        do = need(packet, "do", str)
        if do == calls.HELLO:
            self._welcome(trainer, need(packet, "version", str))
        elif do == calls.WANT:
            key, end = need(packet, "key", int), need(packet, "end", int)
            self._check(key, end)
            self._do(self._slots.want(trainer, key, end))
        elif do == calls.DONE:
            self._do(self._slots.done(trainer, need(packet, "slot", int)))
        else:
            raise RemoteProtocolError(f"a trainer asks for {do[:40]!r}")

    def _check(self, key: int, end: int) -> None:
        last = self._dataset.num_validation_batches
        if not -last <= key < calls.MAX_NUMBER or not 0 <= end < calls.MAX_NUMBER:
            raise RemoteProtocolError(f"a trainer wants batch {key} of a lease that ends at {end}")

    def _welcome(self, trainer: int, version: str) -> None:
        if version != __version__:
            reason = f"the data server is {__version__}, the trainer {version}"
            self._links[trainer].send({"do": calls.REFUSE, "reason": reason})
            return
        size = self._ring.size
        welcome = calls.Welcome(
            size.num_slots, size.slot_bytes, self._dataset.num_validation_batches
        )
        self._links[trainer].send(welcome.packet(), (self._memory.fd,))

    def _do(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            if isinstance(instruction, Fill):
                self._tasks.spawn(self._fill(instruction), name="data.fill")
                continue
            link = self._links.get(instruction.trainer)
            if link is not None:
                link.send(_packet(instruction))

    async def _fill(self, fill: Fill) -> None:
        try:
            if self._workers is not None:
                await self._workers.prepare(fill)
            else:
                await self._executor.run(partial(prepare, self._dataset, self._ring, fill))
        except (DistqatError, OSError) as error:
            self._do(self._slots.failed(fill.slot, str(error)))
        else:
            self._do(self._slots.filled(fill.slot))


def _packet(instruction: Give | Fail) -> dict[str, Any]:
    if isinstance(instruction, Give):
        return {"do": calls.READY, "key": instruction.key, "slot": instruction.slot}
    return {"do": calls.FAIL, "key": instruction.key, "reason": instruction.reason[:1000]}


async def serve(
    job: calls.Job, listener: socket.socket, say: Say, at_end: list[Callable[[], None]]
) -> None:
    """Serve until nobody has needed it for IDLE_S seconds.

    Args:
        job: what to serve.
        listener: where trainers come in.
        say: takes events.
        at_end: gets what is to be done if the parent ends us.

    Raises:
        ConfigError: the data cannot be opened; whoever asked was told.
    """
    executor = DeviceExecutor("data", 1)
    try:
        dataset = await executor.run(partial(open_dataset, job.data, job.seed, job.batch_size))
        first = await executor.run(partial(dataset.read, 0))
    except DistqatError as error:
        await _refuse(listener, str(error))
        raise
    size = ring_size(first, job.server.slots, job.server.ring_bytes)
    memory = allocate(size.nbytes, Path(job.folder))
    if memory.why_file:
        say("data.ring_in_file", degraded=True, folder=job.folder, reason=memory.why_file)
    async with Supervisor("data", system_rng()) as tasks:
        workers = _workers(job, memory, size, say)
        server = DataServer(dataset, Ring(memory.fd, size), memory, executor, tasks, workers)
        at_end.append(server.say_goodbye)
        accept_all(listener, server.accept)
        say("data.serving", slots=size.num_slots, slot_bytes=size.slot_bytes)
        await _until_idle(server)
    executor.close()


def _workers(job: calls.Job, memory: Memory, size: RingSize, say: Say) -> Workers | None:
    """Return the workers that the run asks for, where they can help."""
    if not job.data.num_workers:
        return None
    if job.data.streaming:
        say(
            "data.workers_unused",
            num_workers=job.data.num_workers,
            reason="a stream is read in order: each of them would read all of it",
        )
        return None
    return Workers(job, memory.fd, size, say)


async def _until_idle(server: DataServer) -> None:
    while True:
        server.changed.clear()
        try:
            async with asyncio.timeout(None if server.num_trainers else IDLE_S):
                await server.changed.wait()
        except TimeoutError:
            return


async def _refuse(listener: socket.socket, reason: str) -> None:
    """Tell all who ask, for a moment, why there will be no batches."""
    links: list[socket.socket] = []

    def refuse(link: socket.socket) -> None:
        packet = {"do": calls.REFUSE, "reason": reason[:1000]}
        links.append(link)
        Packets(link, lambda *_: None, lambda _: None).send(packet)

    accept_all(listener, refuse)
    await asyncio.sleep(REFUSING_S)


def accept_all(listener: socket.socket, accept: Callable[[socket.socket], None]) -> None:
    """Call `accept` with every connection that comes, from now on."""

    def on_readable() -> None:
        try:
            link, _ = listener.accept()
        except OSError:
            return  # whoever asked is gone again
        link.settimeout(0)
        accept(link)

    asyncio.get_running_loop().add_reader(listener.fileno(), on_readable)


def _end_with_parent(at_end: list[Callable[[], None]]) -> None:
    """End when the parent says so, and at once when standard input does: it is gone then."""

    def on_readable() -> None:
        if os.read(sys.stdin.fileno(), len(calls.END_LINE)):
            for farewell in at_end:
                farewell()
        os._exit(0)

    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), on_readable)


def _say(kind: str, *, degraded: bool = False, **fields: object) -> None:
    sys.stdout.write(json.dumps({"event": kind, "degraded": degraded, "fields": fields}) + "\n")
    sys.stdout.flush()


def _read_line() -> str:
    """Read the first line of standard input and not a byte more."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(sys.stdin.fileno(), 1)
        if not byte:
            raise SystemExit(0)
        line += byte
    return line.decode()


async def _run(job: calls.Job, listener: socket.socket) -> None:
    at_end: list[Callable[[], None]] = []
    _end_with_parent(at_end)
    await serve(job, listener, _say, at_end)


def main() -> int:
    """Run as the child that it is; return the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Ctrl-C and systemd signal the whole group, but trainers need us until the parent ends.
        signal.signal(number, signal.SIG_IGN)
    job = calls.Job.from_json(_read_line())
    listener = socket.socket(fileno=int(sys.argv[1]))
    listener.settimeout(0)
    try:
        with asyncio.Runner() as runner:
            runner.run(_run(job, listener))
    except DistqatError as error:
        _say("data.unusable", degraded=True, error=str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
