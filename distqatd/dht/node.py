"""The facade: one peer's access to the swarm's records."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from distqatd.base.clock import Clock
from distqatd.base.errors import LocalProtocolError
from distqatd.base.events import EventLog
from distqatd.base.rng import Rng
from distqatd.dht.announce import Announcer
from distqatd.dht.contact import Contact
from distqatd.dht.initial_peers import InitialPeers, Unreachable
from distqatd.dht.limits import DhtLimits
from distqatd.dht.protocol import loop_now
from distqatd.dht.publish import Publisher
from distqatd.dht.record import Record, Verifier, check_limits, key_id
from distqatd.dht.server import DhtServer, OpenDatagrams
from distqatd.identity.keys import Identity
from distqatd.net.address import Address


@dataclass(frozen=True, slots=True)
class DhtStats:
    """Numbers for `distqatctl status` and benchmarks."""

    num_peers: int
    num_records: int
    num_announced: int
    datagrams_received: int
    datagrams_dropped: int
    datagrams_limited: int
    datagrams_sent: int
    requests: int
    retransmissions: int
    round_trip_s: float


def verifier_for(datagram_key: bytes, limits: DhtLimits | None = None) -> Verifier:
    """Return what checks the records of the swarm with this key; nodes may share one."""
    domain = hashlib.blake2b(datagram_key, digest_size=16, person=b"distqat-domain").digest()
    return Verifier(domain, (limits or DhtLimits()).verified_signatures)


class Dht:
    """Signed records with a time to live, shared by the swarm; works alone, too.

    `start` opens the socket, `run` keeps everything alive until it is cancelled, `stop` leaves.
    `store`, `get` and `bootstrap` also work without `run`.

    Args:
        identity: signs our records; its key gives our place in the id space.
        datagram_key: 32 bytes, from `identity.swarm`; who lacks it gets no answer.
        open_datagrams: `Transport.datagrams`.
        clock: read once, for the first sequence number.
        rng: unpredictable in production: message ids, nonces and tokens come from it.
        events: told which initial peers are silent.
        limits: all bounds.
        verifier: shared between nodes of one process to verify each record once; own if None.
    """

    def __init__(
        self,
        identity: Identity,
        datagram_key: bytes,
        open_datagrams: OpenDatagrams,
        clock: Clock,
        rng: Rng,
        events: EventLog,
        limits: DhtLimits | None = None,
        verifier: Verifier | None = None,
    ) -> None:
        limits = limits or DhtLimits()
        verifier = verifier or verifier_for(datagram_key, limits)
        self._limits = limits
        self._server = DhtServer(
            identity, datagram_key, verifier, open_datagrams, rng, limits, self._contact_added
        )
        self._publisher = Publisher(self._server, identity, clock.now())
        self._announcer = Announcer(self._publisher, rng)
        self._initial_peers = InitialPeers(self._server, rng, events)

    async def start(self, host: str, port: int) -> None:
        """Open the UDP socket; from here on we answer others.

        Raises:
            PortInUse: the port is taken.
        """
        await self._server.listen(port, host)

    async def bootstrap(self, addresses: Sequence[Address]) -> int:
        """Contact initial peers, now and from `run` for ever; return how many were reached."""
        return await self._initial_peers.join(addresses)

    async def run(self) -> None:
        """Keep our records, our contacts and the way to the initial peers alive; never ends."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._announcer.run(), name="dht.announce")
            tasks.create_task(self._initial_peers.run(), name="dht.initial_peers")
            tasks.create_task(self._keep_contacts(), name="dht.contacts")

    async def stop(self) -> None:
        """Leave: write tombstones for our records, in bounded time, and close the socket.

        Cancel `run` first; a refresh that runs meanwhile could outlive its tombstone.
        """
        self._announcer.clear()
        try:
            async with asyncio.timeout(self._limits.stop_timeout_s):
                await self._publisher.remove_all()
        except TimeoutError:
            pass  # what is left expires by itself
        finally:
            self._server.stop()

    async def store(self, key: str, subkey: str, value: bytes, *, ttl_s: float) -> int:
        """Write a record once; return how many nodes acknowledged it, this one included.

        Raises:
            RecordError: key, subkey, value or ttl is beyond its limit.
        """
        return await self._publisher.publish(key, subkey, value, ttl_s)

    async def remove(self, key: str, subkey: str) -> int:
        """Write a tombstone over our record; return how many nodes acknowledged it.

        It lives as long as the record it replaces may, an hour if that is not known here.
        """
        return await self._publisher.remove(key, subkey)

    async def get(self, key: str) -> tuple[Record, ...]:
        """Return the live records of a key: of each publisher and subkey the newest, verified.

        Asks the network even for what this node holds, because others may have newer ones.
        Sorted by subkey, then publisher.
        """
        found = await self._server.find_records(key)
        newest = dict(found.records)
        for held in self._server.storage.get(key_id(key), ()):
            other = newest.get(held.record.slot)
            if other is None or other.rank < held.record.rank:
                newest[held.record.slot] = held.record
        spent = self._server.storage.is_spent
        live = (record for record in newest.values() if not record.deleted and not spent(record))
        return tuple(sorted(live, key=lambda record: (record.subkey, record.publisher)))

    def announce(self, key: str, subkey: str, value: bytes, *, ttl_s: float) -> None:
        """Keep a record alive from `run`: refreshed at ttl/3, a changed value written at once.

        Raises:
            RecordError: key, subkey, value or ttl is beyond its limit.
        """
        check_limits(key, subkey, value, ttl_s)
        self._announcer.announce(key, subkey, value, ttl_s)

    def withdraw(self, key: str, subkey: str) -> None:
        """Stop announcing and write a tombstone."""
        self._announcer.withdraw(key, subkey)

    @property
    def num_peers(self) -> int:
        """Return how many peers we know that have proven themselves; 0 before `start`."""
        return len(self._server.protocol.router) if self._server.is_listening else 0

    @property
    def unreachable(self) -> tuple[Unreachable, ...]:
        """Return the initial peers that do not answer, each with a reason for people."""
        return self._initial_peers.unreachable

    @property
    def stats(self) -> DhtStats:
        """Return numbers since the start.

        Raises:
            LocalProtocolError: `start` has not been called.
        """
        if not self._server.is_listening:
            raise LocalProtocolError("the DHT has no numbers before it is started")
        protocol = self._server.protocol
        return DhtStats(
            num_peers=self.num_peers,
            num_records=self._server.storage.num_records,
            num_announced=len(self._announcer),
            datagrams_received=protocol.counters.received,
            datagrams_dropped=protocol.counters.dropped,
            datagrams_limited=protocol.counters.limited,
            datagrams_sent=protocol.counters.sent,
            requests=protocol.calls.num_sent,
            retransmissions=protocol.calls.num_retransmitted,
            round_trip_s=protocol.calls.round_trip.mean_s,
        )

    def _contact_added(self, contact: Contact) -> None:
        self._announcer.contact_added(contact)

    async def _keep_contacts(self) -> None:
        """Ask whoever has been silent longest, and look into buckets nobody looked into."""
        while True:
            await asyncio.sleep(self._limits.check_every_s)
            contacts = sorted(self._server.protocol.router, key=lambda c: c.heard_at)[:1]
            for contact in contacts:
                if loop_now() - contact.heard_at > self._limits.silent_contact_s:
                    await self._server.check(contact)
            await self._server.refresh_buckets()
