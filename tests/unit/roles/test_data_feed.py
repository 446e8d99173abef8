"""A trainer and a data server in one process, over a real socket."""

import asyncio
import errno
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import torch

from distqatd.base.clock import SystemClock
from distqatd.base.errors import ComputeError, ConfigError, DialError
from distqatd.base.events import EventLog
from distqatd.base.rng import seeded_rng
from distqatd.base.tasks import Supervisor
from distqatd.config.sections import DataConfig, DataServerConfig
from distqatd.data.batches import Batch, Dataset, Finish, open_dataset
from distqatd.data.ring import Ring, allocate, ring_size
from distqatd.data.source import Raw
from distqatd.roles import data_calls as calls
from distqatd.roles.batches import LaterBatches
from distqatd.roles.data_feed import ServedBatches, Server
from distqatd.roles.data_server import DataServer, accept_all, serve
from distqatd.roles.packets import MAX_PACKET, Packets, connect, listen
from tests.support.inline_executor import InlineExecutor

NAME = f"distqat-unit-{os.getpid()}"
DATA, SEED, SIZE = DataConfig(), 2, 32


class Machine:
    """A data server that can be killed and started, and a trainer."""

    def __init__(self, tmp_path: Path, tasks: Supervisor) -> None:
        self._folder, self._tasks = tmp_path, tasks
        self.events = EventLog(SystemClock())
        self.dataset = open_dataset(DATA, SEED, SIZE)
        self.num_read = 0
        self.num_opened = 0
        self.links: list[socket.socket] = []
        self._listener: socket.socket | None = None

    def serve(self, broken: frozenset[int] = frozenset()) -> None:
        size = ring_size(self.dataset.read(0), 4, 1 << 20)
        memory = allocate(size.nbytes, self._folder)
        data = Counted(self, broken)
        executor = InlineExecutor(0.0)
        server = DataServer(data, Ring(memory.fd, size), memory, executor, self._tasks)  # type: ignore[arg-type]
        self.server = server
        self._listener = listen(NAME)
        assert self._listener is not None

        def accept(link: socket.socket) -> None:
            self.links.append(link)
            server.accept(link)

        accept_all(self._listener, accept)

    def kill(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
        for link in self.links:
            if link.fileno() >= 0:
                asyncio.get_running_loop().remove_reader(link.fileno())
                link.close()
        self.links.clear()

    def trainer(self, *, may_read: bool = True) -> ServedBatches:
        executor = InlineExecutor(0.0)
        own = LaterBatches(self._opened, executor) if may_read else None
        finish, rng = Finish.of(DATA, SEED, SIZE), seeded_rng("feed")
        return ServedBatches(NAME, finish, executor, own, self.events, rng)

    def _opened(self) -> Dataset:
        self.num_opened += 1
        return self.dataset

    def told(self, kind: str) -> list[bool]:
        return [event.degraded for event in self.events.since() if event.kind == kind]


class Counted:
    """The data set as the server sees it."""

    def __init__(self, machine: Machine, broken: frozenset[int]) -> None:
        self._machine, self._broken = machine, broken
        self.num_validation_batches = machine.dataset.num_validation_batches

    def read(self, number: int) -> Raw:
        self._machine.num_read += 1
        if number in self._broken:
            raise ComputeError(f"batch {number} is broken")
        return self._machine.dataset.read(number)

    def read_validation(self, index: int) -> Raw:
        return self._machine.dataset.read_validation(index)


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    async with running(tmp_path) as made:
        yield made


@asynccontextmanager
async def running(tmp_path: Path) -> AsyncIterator[Machine]:
    async with Supervisor("test", seeded_rng("test")) as tasks, asyncio.timeout(20):
        made = Machine(tmp_path, tasks)
        yield made
        made.kill()


def same(one: Batch, other: Batch) -> bool:
    pairs = zip((*one.inputs, *one.targets), (*other.inputs, *other.targets), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


async def test_batches_out_of_the_ring_are_those_of_the_data_set(machine: Machine) -> None:
    machine.serve()
    feed = machine.trainer()
    batches = [await feed.batch(number, 12) for number in range(12)]
    assert all(same(batch, machine.dataset.batch(n)) for n, batch in enumerate(batches))
    assert machine.num_opened == 0
    assert machine.num_read == 12
    expected = [*machine.dataset.validation_batches()]
    found = await feed.validation()
    assert all(same(one, other) for one, other in zip(found, expected, strict=True))
    assert await feed.trial() is None
    feed.close()


async def test_where_the_kernel_gives_no_memory_batches_come_through_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "memfd_create", full)
    listener = listen(NAME)
    assert listener is not None
    told: dict[str, dict[str, object]] = {}
    job = calls.Job(DATA, SEED, SIZE, DataServerConfig(slots=4), str(tmp_path))
    async with running(tmp_path) as machine:

        def say(kind: str, **fields: object) -> None:
            told[kind] = fields

        serving = asyncio.get_running_loop().create_task(serve(job, listener, say, []))
        feed = machine.trainer(may_read=False)
        for number in range(6):
            assert same(await feed.batch(number, 6), machine.dataset.batch(number))
        feed.close()
        serving.cancel()
        await asyncio.wait([serving])
    assert told["data.ring_in_file"]["degraded"] is True
    assert told["data.ring_in_file"]["reason"] == "No space left on device"
    listener.close()


async def test_two_trainers_that_want_the_same_batch_have_it_read_once(machine: Machine) -> None:
    machine.serve()
    feeds = [machine.trainer(), machine.trainer()]
    first, second = [await feed.batch(3, 4) for feed in feeds]
    assert same(first, second)
    assert machine.num_read == 1
    for feed in feeds:
        feed.close()


async def test_without_a_server_the_trainer_reads_and_that_is_no_trouble(machine: Machine) -> None:
    feed = machine.trainer()
    assert same(await feed.batch(0, 5), machine.dataset.batch(0))
    assert machine.told("data.unserved") == [False]


async def test_a_server_that_dies_is_told_and_used_again_when_it_is_back(machine: Machine) -> None:
    machine.serve()
    feed = machine.trainer()
    await feed.batch(0, 9)
    machine.kill()
    assert same(await feed.batch(1, 9), machine.dataset.batch(1))
    assert machine.told("data.server_lost") == [True]
    assert machine.told("data.unserved") == [True]
    machine.serve()
    number = 2
    while len(machine.told("data.served")) < 2:
        assert same(await feed.batch(number, 900), machine.dataset.batch(number))
        await asyncio.sleep(0.01)
        number += 1
    feed.close()


async def test_a_trainer_that_must_not_read_waits_for_the_server(machine: Machine) -> None:
    feed = machine.trainer(may_read=False)
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(feed.batch(4, 5))
        async for event in machine.events.follow():
            if event.kind == "data.unserved":
                break
        assert not waiting.done()
        machine.serve()
    assert same(waiting.result(), machine.dataset.batch(4))
    assert machine.told("data.unserved") == [True]
    feed.close()


async def test_a_batch_that_the_server_cannot_prepare_is_read_here(machine: Machine) -> None:
    machine.serve(broken=frozenset({1}))
    feed = machine.trainer()
    for number in range(3):
        assert same(await feed.batch(number, 3), machine.dataset.batch(number))
    assert machine.num_opened == 1
    feed.close()


async def test_a_cancelled_trainer_holds_no_slot(machine: Machine) -> None:
    machine.serve()
    feed = machine.trainer()
    await feed.batch(0, 0)
    for number in range(1, 20):
        task = asyncio.ensure_future(feed.batch(number, 0))
        for _ in range(number % 6):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    assert same(await feed.batch(50, 0), machine.dataset.batch(50))
    feed.close()


async def test_a_server_that_cannot_open_the_data_says_why(tmp_path: Path) -> None:
    listener = listen(NAME)
    assert listener is not None
    refusing: list[Packets] = []

    def refuse(link: socket.socket) -> None:
        link.settimeout(0)
        refusing.append(Packets(link, lambda *_: None, lambda _: None))
        refusing[-1].send({"do": calls.REFUSE, "reason": "no such table"})

    accept_all(listener, refuse)
    async with running(tmp_path) as machine:
        with pytest.raises(ConfigError, match="no such table"):
            await machine.trainer(may_read=False).batch(0, 1)
    asyncio.get_running_loop().remove_reader(listener.fileno())
    listener.close()
    for link in refusing:
        link.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xfe",
        b"[1]",
        b"{}",
        json.dumps({"do": "want", "key": -999, "end": 0}).encode(),
        json.dumps({"do": "want", "key": 1 << 63, "end": 0}).encode(),
        json.dumps({"do": "want", "key": 1, "end": "2"}).encode(),
        json.dumps({"do": "what"}).encode(),
        b"x" * (MAX_PACKET + 1),
    ],
)
async def test_garbage_ends_the_connection_and_nothing_else(
    machine: Machine, garbage: bytes
) -> None:
    machine.serve()
    feed = machine.trainer()
    await feed.batch(0, 3)
    link = connect(NAME)
    link.send(garbage)
    loop = asyncio.get_running_loop()
    assert await loop.sock_recv(link, 100) == b""
    link.close()
    assert same(await feed.batch(1, 3), machine.dataset.batch(1))
    assert machine.told("data.server_lost") == []
    feed.close()


async def test_another_version_is_refused(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.serve()
    monkeypatch.setattr("distqatd.roles.data_feed.__version__", "0.0.1")
    server = Server(NAME, lambda _: None, lambda _: None)
    with pytest.raises(ConfigError, match=r"the trainer 0\.0\.1"):
        await server.open(5)
    server.close()


def test_one_process_listens_and_nobody_answers_when_it_is_gone() -> None:
    listener = listen(NAME)
    assert listener is not None
    assert listen(NAME) is None
    listener.close()
    with pytest.raises(DialError, match="no data server answers"):
        connect(NAME)


async def test_a_server_that_ends_in_order_says_so_and_is_not_lost(machine: Machine) -> None:
    machine.serve()
    feed = machine.trainer()
    await feed.batch(0, 9)
    machine.server.say_goodbye()
    machine.kill()
    assert same(await feed.batch(1, 9), machine.dataset.batch(1))
    assert machine.told("data.server_lost") == []
    assert machine.told("data.server_left") == [False]
    assert machine.told("data.unserved") == [True]  # it is needed still
    feed.close()
