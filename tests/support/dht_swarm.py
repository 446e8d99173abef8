"""Nodes of the DHT on simulated machines: a swarm in a line, lookups across it, crashes."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from distqatd.base.events import EventLog
from distqatd.dht.limits import DhtLimits
from distqatd.dht.node import Dht, verifier_for
from distqatd.dht.record import Record, Verifier
from distqatd.net.address import Address
from tests.sim.host import Host
from tests.sim.network import Weather
from tests.sim.sim import Sim, run

PORT = 29700
SWARM_KEY = b"k" * 32


class DhtNode:
    """One machine with a DHT node on it."""

    def __init__(
        self,
        host: Host,
        limits: DhtLimits,
        verifier: Verifier,
        key: bytes = SWARM_KEY,
        port: int = PORT,
    ) -> None:
        self.host = host
        self.port = port
        self.events = EventLog(host.clock)
        self.dht = Dht(
            host.identity,
            key,
            host.transport.datagrams,
            host.clock,
            host.rng,
            self.events,
            limits,
            verifier,
        )

    @property
    def address(self) -> Address:
        return Address(self.host.ip, self.port)

    @property
    def server(self) -> Any:
        return self.dht._server

    async def start(self, initial_peers: Sequence[Address] = ()) -> int:
        """Open the socket, run for ever on this machine, and join."""
        await self.dht.start(self.host.ip, self.port)
        self.running = self.host.spawn(self.dht.run(), name="dht")
        return await self.dht.bootstrap(initial_peers)

    async def leave(self) -> None:
        """End `run`, write tombstones, close."""
        self.running.cancel()
        await asyncio.wait([self.running])
        await self.dht.stop()

    async def values(self, key: str) -> list[str]:
        """Return the values of a key as text, sorted."""
        return sorted(record.value.decode() for record in await self.dht.get(key))


class DhtSwarm:
    """Nodes on one simulated network, verifying each record once between them."""

    def __init__(self, sim: Sim, limits: DhtLimits | None = None) -> None:
        self.sim = sim
        self.limits = limits or DhtLimits()
        self.verifier = verifier_for(SWARM_KEY, DhtLimits(verified_signatures=100_000))
        self.nodes: list[DhtNode] = []

    def node(self, **options: Any) -> DhtNode:
        """Make a node that is not started yet."""
        host = options.pop("host", None) or self.sim.host(skew_s=options.pop("skew_s", 0.0))
        node = DhtNode(host, self.limits, self.verifier, **options)
        self.nodes.append(node)
        return node

    async def grow(self, count: int, via: DhtNode | None = None) -> list[DhtNode]:
        """Start nodes one after the other, each told of the first (or of `via`)."""
        grown = []
        for _ in range(count):
            known = via or (self.nodes[0] if self.nodes else None)
            node = self.node()
            await node.start([known.address] if known else [])
            grown.append(node)
        return grown


def simulate(
    scenario: Callable[[DhtSwarm], Awaitable[Any]],
    *,
    seed: int = 1,
    loss: float = 0.0,
    limits: DhtLimits | None = None,
) -> Any:
    """Run a scenario on virtual time and return what it returns."""

    async def within(sim: Sim) -> Any:
        sim.net.weather = Weather(loss=loss)
        return await scenario(DhtSwarm(sim, limits))

    return run(within, seed).value


def texts(records: Sequence[Record]) -> list[str]:
    """Return the values as text."""
    return sorted(record.value.decode() for record in records)
