"""The smallest protocol worth simulating: a counter that others increment over datagrams.

Each increment has a number and is sent again until it is acknowledged, so the server sees
duplicates; it must apply each once. Also the example to copy for a new scenario.
"""

import asyncio
from typing import Any

from tests.sim.host import Host
from tests.sim.network import Weather
from tests.sim.registry import scenario
from tests.sim.sim import Sim

NUM_CLIENTS = 3
NUM_INCREMENTS = 20
PORT = 29700
RETRY_S = 0.3


class CounterServer(asyncio.DatagramProtocol):
    """Applies increments; `deduplicate=False` plants the classic bug."""

    def __init__(self, host: Host, *, deduplicate: bool) -> None:
        self._disk = host.disk.setdefault("counter", {"value": 0, "seen": set()})
        self._deduplicate = deduplicate

    def connection_made(self, transport: Any) -> None:
        """Remember where to answer."""
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Apply an increment and acknowledge it."""
        key = (addr, data)
        if key not in self._disk["seen"] or not self._deduplicate:
            self._disk["value"] += 1
            self._disk["seen"].add(key)
        self._transport.sendto(data, addr)


class CounterClient(asyncio.DatagramProtocol):
    """Collects acknowledgements."""

    def __init__(self) -> None:
        self.acknowledged: set[bytes] = set()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Note that an increment has arrived."""
        self.acknowledged.add(data)


async def _serve(host: Host, *, deduplicate: bool) -> None:
    server = CounterServer(host, deduplicate=deduplicate)
    await host.transport.datagrams("0.0.0.0", PORT, server)


async def _increment(host: Host, server_ip: str) -> None:
    client = CounterClient()
    transport = await host.transport.datagrams("0.0.0.0", 0, client)
    for number in range(NUM_INCREMENTS):
        data = number.to_bytes(4, "big")
        while data not in client.acknowledged:
            transport.sendto(data, (server_ip, PORT))
            await asyncio.sleep(RETRY_S)
    host.disk["done"] = True


async def run_counter(sim: Sim, *, deduplicate: bool) -> int:
    """Increment through loss, duplicates, a partition and a crash; return the final value."""
    sim.net.weather = Weather(loss=0.1, duplication=0.1, reordering=0.2)
    server, *clients = [sim.host() for _ in range(1 + NUM_CLIENTS)]
    server.start(lambda host: _serve(host, deduplicate=deduplicate))
    for client in clients:
        client.start(lambda host: _increment(host, server.ip))
    await asyncio.sleep(sim.rng.uniform(0, 3))
    sim.partition([server])
    await asyncio.sleep(sim.rng.uniform(0, 3))
    sim.heal()
    server.crash()
    await asyncio.sleep(sim.rng.uniform(0, 2))
    server.restart()
    await sim.until(
        lambda: all(client.disk.get("done") for client in clients),
        within_s=300,
        what="all increments acknowledged",
    )
    value: int = server.disk["counter"]["value"]
    sim.check(
        value == NUM_CLIENTS * NUM_INCREMENTS,
        f"{NUM_CLIENTS * NUM_INCREMENTS} increments made the counter {value}",
    )
    return value


@scenario("counter")
async def counter(sim: Sim) -> int:
    """Every increment counts once, whatever the network does."""
    return await run_counter(sim, deduplicate=True)


async def forgetful_counter(sim: Sim) -> int:
    """Run the planted bug; not registered, because it does fail."""
    return await run_counter(sim, deduplicate=False)
