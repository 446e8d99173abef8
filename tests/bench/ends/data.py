"""Both ends of the data bench: the consumer, which starts the producer as a process of its own."""

import asyncio
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import torch

from distqatd.base.rng import system_rng
from distqatd.base.tasks import Supervisor
from distqatd.compute.executor import DeviceExecutor
from distqatd.data.ring import Ring, allocate, ring_size
from distqatd.data.source import Raw
from distqatd.roles.data_feed import Server
from distqatd.roles.data_server import DataServer, accept_all
from distqatd.roles.packets import listen
from tests.bench.children import say, serve
from tests.bench.data import batch

ENDLESS = 1 << 40


class Prepared:
    """A data set whose batches are there already: what is measured is how they are handed over."""

    num_validation_batches = 1

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._batch = batch(shape)

    def read(self, number: int) -> Raw:
        return self._batch


async def produce(name: str, shape: tuple[int, ...]) -> None:
    dataset, listener = Prepared(shape), listen(name)
    size = ring_size(dataset.read(0), 4, 1 << 30)
    memory = allocate(size.nbytes, Path(gettempdir()))
    async with Supervisor("bench", system_rng()) as tasks:
        executor = DeviceExecutor("data", 1)
        server = DataServer(dataset, Ring(memory.fd, size), memory, executor, tasks)
        accept_all(listener, server.accept)
        print("up", flush=True)
        await asyncio.Event().wait()


class FromRing:
    """What a trainer does: it asks for one batch after the other, and looks at each."""

    def __init__(self, shape: tuple[int, ...], stack: ExitStack) -> None:
        name = f"distqat-bench-{os.getpid()}"
        command = [sys.executable, "-m", "tests.bench.ends.data", "produce", name]
        self._producer = stack.enter_context(
            subprocess.Popen([*command, *map(str, shape)], stdout=subprocess.PIPE)
        )
        stack.callback(self._producer.kill)
        self._producer.stdout.readline()
        self.pid = self._producer.pid
        self._runner = stack.enter_context(asyncio.Runner())
        self._next = 0
        self._server = self._runner.run(self._open(name))

    async def _open(self, name: str) -> Server:
        server = Server(name, lambda _: None)
        assert await server.open(10)
        return server

    def take(self, count: int) -> None:
        self._runner.run(self._take(count))

    async def _take(self, count: int) -> None:
        async def look(raw: Raw, _: Ring) -> int:
            return int(raw[0][0].view(-1)[0])

        for _ in range(count):
            assert await self._server.take(self._next, ENDLESS, look) == 7
            self._next += 1


class FromPipe:
    """The same batches, pickled, through a pipe."""

    def __init__(self, shape: tuple[int, ...], stack: ExitStack) -> None:
        context = multiprocessing.get_context("spawn")
        self._end, far = context.Pipe()
        process = context.Process(target=send_for_ever, args=(far, shape), daemon=True)
        process.start()
        stack.callback(process.kill)
        self.pid = process.pid

    def take(self, count: int) -> None:
        for _ in range(count):
            images, _ = self._end.recv()
            assert torch.from_numpy(images).view(-1)[0] == 7


def send_for_ever(end: Connection, shape: tuple[int, ...]) -> None:
    images, labels = np.full(shape, 7, np.uint8), np.zeros(shape[0], np.int64)
    while True:
        end.send((images, labels))


WAYS: dict[str, Callable[..., FromRing | FromPipe]] = {"ring": FromRing, "pipe": FromPipe}


def main(way: str, *sizes: str) -> None:
    torch.set_num_threads(1)
    if way == "produce":
        name, *rest = sizes
        with asyncio.Runner() as runner:
            runner.run(produce(name, tuple(map(int, rest))))
    with ExitStack() as stack:
        consumer = WAYS[way](tuple(map(int, sizes)), stack)

        def take(count: int) -> dict[str, int]:
            consumer.take(count)
            return {"count": count}

        say(producer=consumer.pid)
        serve({"take": take})


if __name__ == "__main__":
    main(*sys.argv[1:])
