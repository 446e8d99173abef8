"""Writing own records: sign, find the holders, store, and learn from what they answer."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from distqatd.base.errors import RemoteProtocolError
from distqatd.dht.contact import Contact
from distqatd.dht.limits import MAX_TTL_MS
from distqatd.dht.lookup import Holder
from distqatd.dht.messages import Status, StoreReply
from distqatd.dht.protocol import loop_now
from distqatd.dht.record import MAX_SEQ, Record, key_id
from distqatd.dht.server import DhtServer
from distqatd.dht.storage import OWN
from distqatd.identity.keys import Identity

MAX_PLACEMENTS = 256

SEQ_BITS_PER_MS = 21
"""A sequence number is (milliseconds since 1970 at the start, then a counter of 21 bits)."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Who holds a key, as found by a lookup at `found_at` (loop time)."""

    holders: tuple[Holder, ...]
    found_at: float


class Publisher:
    """Signs this peer's records and stores them on the nodes nearest to their keys.

    Sequence numbers start at the wall time of our start, in milliseconds, in the high bits, and
    count up by one per record, so they grow across restarts without any state on disk. The wall
    clock only makes a first guess: if it ran backwards, a holder shows us our own newer record
    (its signature proves that it is ours) and we continue above that.

    A lookup's result is used again for half a token's life, until a holder fails or a nearer
    contact appears: a refresh costs one round trip.
    """

    def __init__(self, server: DhtServer, identity: Identity, start_unix_s: float) -> None:
        self._server = server
        self._identity = identity
        self._seq = min(int(start_unix_s * 1000) << SEQ_BITS_PER_MS, MAX_SEQ // 2)
        self._placements: OrderedDict[str, Placement] = OrderedDict()

    async def publish(self, key: str, subkey: str, value: bytes | None, ttl_s: float) -> int:
        """Store a value, or a tombstone for None; return how many nodes hold it, this one included.

        Raises:
            RecordError: key, subkey, value or ttl is beyond its limit.
        """
        record = self._sign(key, subkey, value, ttl_s)
        replies = await self._place(record)
        if self._overtake(record, replies):
            record = self._sign(key, subkey, value, ttl_s)
            replies = await self._place(record)
        return 1 + sum(_is_stored(reply) for reply in replies)

    async def remove(self, key: str, subkey: str) -> int:
        """Write a tombstone over a record of ours; return as `publish`.

        It lives as long as the record may: an hour, if that is not known here.
        """
        held = self._server.storage.held(key, (self._identity.public_key, subkey))
        ttl_s = MAX_TTL_MS / 1000 if held is None else held.record.ttl_s
        return await self.publish(key, subkey, None, ttl_s)

    async def remove_all(self) -> None:
        """Write tombstones over all our records at once."""
        async with asyncio.TaskGroup() as writes:
            for record in self._server.storage.own_records():
                if not record.deleted:
                    work = self.publish(record.key, record.subkey, None, record.ttl_s)
                    writes.create_task(work, name="dht.tombstone")

    def is_affected(self, key: str, contact: Contact) -> bool:
        """Return whether a new contact belongs among the holders of a key; forget them if so."""
        placement = self._placements.get(key)
        if placement is None:
            return True
        if len(placement.holders) >= self._server.limits.replicas:
            target = int.from_bytes(key_id(key), "big")
            farthest = placement.holders[-1].contact.long_id ^ target
            if contact.long_id ^ target > farthest:
                return False
        if any(holder.contact.id == contact.id for holder in placement.holders):
            return False
        del self._placements[key]
        return True

    def _sign(self, key: str, subkey: str, value: bytes | None, ttl_s: float) -> Record:
        """Make the next record and keep it here, whatever the others do."""
        self._seq += 1
        domain = self._server.verifier.domain
        slot = (key, subkey)
        record = Record.sign(self._identity, domain, slot, value, seq=self._seq, ttl_s=ttl_s)
        self._server.storage.merge(record, ttl_s, OWN)
        return record

    async def _place(self, record: Record) -> list[StoreReply | None]:
        placement = self._placements.get(record.key)
        max_age_s = self._server.limits.token_period_s / 2
        if placement is not None and loop_now() - placement.found_at < max_age_s:
            replies = await self._server.put(record, placement.holders)
            if all(reply is not None and reply.status is not Status.BAD_TOKEN for reply in replies):
                return replies
        holders = await self._server.find_holders(record.key)
        self._remember(record.key, Placement(holders, loop_now()))
        return await self._server.put(record, holders)

    def _remember(self, key: str, placement: Placement) -> None:
        self._placements[key] = placement
        self._placements.move_to_end(key)
        if len(self._placements) > MAX_PLACEMENTS:
            self._placements.popitem(last=False)

    def _overtake(self, record: Record, replies: list[StoreReply | None]) -> bool:
        """Go above what a former run of ours, on a faster clock, has left at a holder."""
        before = self._seq
        for reply in replies:
            newer = reply.newer if reply is not None else None
            if newer is not None:
                self._seq = max(self._seq, self._seq_of_ours(record, newer))
        return self._seq > before

    def _seq_of_ours(self, record: Record, fields: list[object]) -> int:
        try:
            newer, _ = Record.parse(record.key, fields)
        except RemoteProtocolError:
            return 0
        ours = newer.slot == record.slot and self._server.verifier.accepts(newer)
        return newer.seq if ours and newer.seq < MAX_SEQ else 0


def _is_stored(reply: StoreReply | None) -> bool:
    return reply is not None and reply.status is Status.STORED
