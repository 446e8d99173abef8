"""A DHT without datagrams: what the real one promises, at a fraction of the cost.

Every machine holds all records. A write reaches the others after the link's delay, later when
datagrams are lost, never while the link is cut; a read merges what three machines that can be
reached hold with what this one holds. Records expire, and a machine that dies takes its copies
along. The real DHT has its own simulations, and runs in a share of the elastic ones.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from distqatd.base.ids import PeerId
from distqatd.net.address import Address
from tests.sim.host import Host
from tests.sim.network import Network

QUORUM = 3
RETRY_S = 0.15
SILENCE_S = 0.6
"""What a read takes when nobody can be reached, virtual seconds."""

SEQ_BITS_PER_MS = 21


@dataclass(frozen=True, slots=True)
class CheapRecord:
    """A record as `Dht.get` returns it; `value` None is a tombstone."""

    key: str
    peer_id: PeerId
    subkey: str
    value: bytes | None
    seq: int
    expires_at: float
    ttl_s: float


Slot = tuple[str, PeerId, str]


class CheapDht:
    """One machine's access to the swarm's records; stands where a daemon has its `Dht`."""

    def __init__(self, network: Network, host: Host, swarm: list["CheapDht"]) -> None:
        self._network = network
        self._loop = network.loop
        self._host = host
        self._life = host.life
        self._swarm = swarm
        self._seq = int(host.clock.now() * 1000) << SEQ_BITS_PER_MS
        self._held: dict[str, dict[Slot, CheapRecord]] = {}
        self._own: dict[tuple[str, str], tuple[bytes, float]] = {}
        self.num_peers = 0
        self.unreachable: tuple[object, ...] = ()

    async def start(self, host: str, port: int) -> None:
        """Be there for others."""
        self._swarm.append(self)

    async def bootstrap(self, addresses: Sequence[Address]) -> int:
        """Take over what three others hold; the nodes that a new contact concerns send it."""
        others = await self._ask()
        for other in others:
            for records in other._held.values():
                for record in records.values():
                    self._merge(record)
        self.num_peers = len(others)
        return len(others)

    async def run(self) -> None:
        """Write own records again before they expire, for ever."""
        while True:
            await asyncio.sleep(5.0)
            for (key, subkey), (value, ttl_s) in self._own.items():
                held = self._held[key].get((key, self._host.identity.peer_id, subkey))
                if held is None or held.expires_at - self._loop.time() < ttl_s * 2 / 3:
                    self._write(key, subkey, value, ttl_s)

    async def stop(self) -> None:
        """Write tombstones and leave."""
        for (key, subkey), (_, ttl_s) in self._own.items():
            self._write(key, subkey, None, ttl_s)
        self._own.clear()
        self._swarm.remove(self)

    def announce(self, key: str, subkey: str, value: bytes, *, ttl_s: float) -> None:
        """Keep a value alive; a changed one is written at once."""
        if self._own.get((key, subkey)) != (value, ttl_s):
            self._own[key, subkey] = (value, ttl_s)
            self._write(key, subkey, value, ttl_s)

    def withdraw(self, key: str, subkey: str) -> None:
        """Write a tombstone."""
        own = self._own.pop((key, subkey), None)
        if own is not None:
            self._write(key, subkey, None, own[1])

    async def get(self, key: str) -> tuple[CheapRecord, ...]:
        """Return the live records of a key."""
        for other in await self._ask():
            for record in other._held.get(key, {}).values():
                self._merge(record)
        now_s = self._loop.time()
        records = self._held.get(key, {})
        for slot in [slot for slot, each in records.items() if each.expires_at <= now_s]:
            del records[slot]
        live = [each for each in records.values() if each.value is not None]
        return tuple(sorted(live, key=lambda each: (each.subkey, each.peer_id)))

    async def _ask(self) -> list["CheapDht"]:
        """Return up to three others that can be reached, after as long as asking them takes."""
        ips = [each._host.ip for each in self._swarm if each._life.alive and each is not self]
        near = [ip for ip in ips if self._network.connects(self._host.ip, ip)]
        chosen = self._network.rng.sample(near, min(QUORUM, len(near)))
        if not chosen:
            await asyncio.sleep(SILENCE_S)
            return []
        await asyncio.sleep(2 * max(self._delay_s(ip) for ip in chosen))
        return [each for each in self._swarm if each._host.ip in chosen and each._life.alive]

    def _write(self, key: str, subkey: str, value: bytes | None, ttl_s: float) -> None:
        if not self._life.alive:
            return
        self._seq += 1
        expires_at = self._loop.time() + ttl_s
        record = CheapRecord(
            key, self._host.identity.peer_id, subkey, value, self._seq, expires_at, ttl_s
        )
        self._merge(record)
        for other in self._swarm:
            if other is not self:
                delay_s = self._delay_s(other._host.ip)
                self._loop.call_later(
                    delay_s, self._land, other, record, context=self._network.context
                )

    def _land(self, other: "CheapDht", record: CheapRecord) -> None:
        network = self._network
        if not other._life.alive or network.is_cut(self._host.ip, other._host.ip):
            return
        network.record("record", f"{self._host.ip}>{other._host.ip}", record.value or b"")
        other._merge(record)

    def _merge(self, record: CheapRecord) -> None:
        slot = (record.key, record.peer_id, record.subkey)
        records = self._held.setdefault(record.key, {})
        held = records.get(slot)
        if held is None or held.seq < record.seq:
            records[slot] = record
            if record.peer_id == self._host.identity.peer_id:
                self._seq = max(self._seq, record.seq)

    def _delay_s(self, ip: str) -> float:
        network = self._network
        delay_s = network.delay_s(self._host.ip, ip)
        while network.weather.loss and network.rng.random() < network.weather.loss:
            delay_s += RETRY_S
        return delay_s
