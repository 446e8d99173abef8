"""Many nodes of our DHT in one process, each with a UDP socket of its own on loopback."""

import asyncio
import gc
import time
from typing import Any

from distqatd.base.clock import SystemClock
from distqatd.base.events import EventLog
from distqatd.base.rng import seeded_rng, system_rng
from distqatd.dht.node import Dht
from distqatd.identity.keys import Identity
from distqatd.net.address import Address
from tests.bench import links
from tests.bench.children import say, serve
from tests.bench.measure import rss_bytes

HOST = "127.0.0.1"
KEY = b"k" * 32
TTL_S = 600.0
JOINING_AT_ONCE = 8


class Nodes:
    """The nodes; commands of the parent, each of which runs the loop until it is done."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._run = runner.run
        self._rng = seeded_rng("bench", "dht")
        self._nodes: list[Dht] = []
        self._addresses: list[Address] = []
        self._keys: list[tuple[str, int]] = []
        self._tasks: list[asyncio.Task[None]] = []

    def grow(self, count: int) -> dict[str, Any]:
        """Add nodes that join over some that are there; return what memory each took."""
        before, began = rss_bytes(), time.perf_counter()
        self._run(self._grow(count))
        took = time.perf_counter() - began
        gc.collect()
        kb = (rss_bytes() - before) / 1024 / count
        peers = sorted(node.num_peers for node in self._nodes)
        return {"kb_per_node": kb, "seconds": took, "p50_peers": peers[len(peers) // 2]}

    def store(self, count: int) -> dict[str, Any]:
        """Store fresh records one after the other, each from a random node."""
        return self._run(self._store(count))

    def get(self) -> dict[str, Any]:
        """Get what `store` stored last, each record from another node."""
        return self._run(self._get())

    async def _grow(self, count: int) -> None:
        left = iter(range(count))

        async def some() -> None:
            for _ in left:
                await self._add()

        if not self._nodes:
            await self._add()
            next(left)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(JOINING_AT_ONCE):
                tasks.create_task(some())

    async def _add(self) -> None:
        clock, rng = SystemClock(), system_rng()
        node = Dht(Identity.generate(rng), KEY, _datagrams, clock, rng, EventLog(clock))
        await node.start(HOST, 0)
        port = node._server.transport.get_extra_info("sockname")[1]
        self._tasks.append(asyncio.get_running_loop().create_task(node.run()))
        if self._addresses:
            known = self._rng.sample(self._addresses, min(3, len(self._addresses)))
            await node.bootstrap(known)
        self._nodes.append(node)
        self._addresses.append(Address(HOST, port))

    async def _store(self, count: int) -> dict[str, Any]:
        times, self._keys, copies = [], [], []
        for _ in range(count):
            key, who = f"{self._rng.getrandbits(128):x}", self._rng.randrange(len(self._nodes))
            began = time.perf_counter()
            copies.append(await self._nodes[who].store(key, "s", b"x" * 200, ttl_s=TTL_S))
            times.append(time.perf_counter() - began)
            self._keys.append((key, who))
        return {"seconds": times, "failed": sum(num < 2 for num in copies)}

    async def _get(self) -> dict[str, Any]:
        times, failed = [], 0
        for key, stored_by in self._keys:
            who = (stored_by + self._rng.randrange(1, len(self._nodes))) % len(self._nodes)
            began = time.perf_counter()
            failed += len(await self._nodes[who].get(key)) != 1
            times.append(time.perf_counter() - began)
        return {"seconds": times, "failed": failed}


async def _datagrams(
    host: str, port: int, protocol: asyncio.DatagramProtocol
) -> asyncio.DatagramTransport:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: protocol, local_addr=(host, port))
    return transport


def main() -> None:
    with links.loop() as runner:
        nodes = Nodes(runner)
        say(ready=True)
        serve({"grow": nodes.grow, "store": nodes.store, "get": nodes.get})


if __name__ == "__main__":
    main()
