"""Records of the DHT through loss, crashes, wrong clocks and a swarm cut in two."""

import asyncio

from distqatd.base.events import EventLog
from distqatd.dht.limits import DhtLimits
from distqatd.dht.node import Dht, verifier_for
from distqatd.net.address import Address
from tests.sim.host import Host
from tests.sim.network import Weather
from tests.sim.registry import scenario
from tests.sim.sim import Sim

PORT = 29700
NUM_NODES = 6
KEY = "run/demo/stage/0"
TTL_S = 60.0
SWARM_KEY = bytes(range(32))


class Member:
    """A machine that announces one record, and what it last saw of everybody's."""

    def __init__(self, host: Host, first: Host) -> None:
        self.host = host
        self.seen: set[str] = set()
        # Shared by all lives: verifying a signature costs more than simulating its journey.
        self._verifier = verifier_for(SWARM_KEY)
        self._first = Address(first.ip, PORT)

    @property
    def value(self) -> str:
        """Return the announced value, new at every boot."""
        return f"{self.host.ip} boot {self.host.boots}"

    async def run(self, host: Host) -> None:
        """Join, announce, look every other second."""
        limits, events = DhtLimits(), EventLog(host.clock)
        dht = Dht(
            host.identity,
            SWARM_KEY,
            host.transport.datagrams,
            host.clock,
            host.rng,
            events,
            limits,
            self._verifier,
        )
        await dht.start(host.ip, PORT)
        dht.announce(KEY, host.ip, self.value.encode(), ttl_s=TTL_S)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(dht.run())
            tasks.create_task(dht.bootstrap([self._first]))
            tasks.create_task(self._look(dht))

    async def _look(self, dht: Dht) -> None:
        while True:
            self.seen = {record.value.decode() for record in await dht.get(KEY)}
            await asyncio.sleep(2.0)


@scenario("dht-records")
async def dht_records(sim: Sim) -> None:
    """Whoever lives sees exactly the newest record of everybody else who lives."""
    sim.net.weather = Weather(loss=0.05, duplication=0.05, reordering=0.1)
    hosts = [sim.host(skew_s=sim.rng.uniform(-600, 600)) for _ in range(NUM_NODES)]
    members = [Member(host, hosts[0]) for host in hosts]
    for member in members:
        member.host.start(member.run)
        await asyncio.sleep(sim.rng.uniform(0, 1))
    await _agree(sim, members, within_s=60, what="everybody sees everybody")

    gone, back = sim.rng.sample(members[1:], 2)
    gone.host.crash()
    back.host.restart()
    half = sim.rng.sample(hosts, NUM_NODES // 2)
    sim.partition(half)
    await asyncio.sleep(sim.rng.uniform(0, 2 * TTL_S))
    sim.heal()
    living = [member for member in members if member is not gone]
    await _agree(sim, living, within_s=3 * TTL_S, what="both halves see the same living members")


async def _agree(sim: Sim, members: list[Member], *, within_s: float, what: str) -> None:
    def same() -> bool:
        expected = {member.value for member in members}
        return all(member.seen == expected for member in members)

    await sim.until(same, within_s=within_s, what=what, every_s=0.5)
