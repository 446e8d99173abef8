"""The records this node holds: kademlia's storage interface over merged, expiring record sets."""

import hashlib
import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from kademlia.storage import IStorage  # noqa: TID251  dht is where kademlia lives

from distqatd.base.errors import LocalProtocolError
from distqatd.dht.limits import DhtLimits
from distqatd.dht.messages import Status
from distqatd.dht.record import Record, Slot, Verifier, key_id, slot_cursor

OWN = "own"
"""The source of this node's own records: exempt from quotas."""


@dataclass(frozen=True, slots=True)
class Held:
    """A record, until when it lives (loop time), and who brought it."""

    record: Record
    expires_at: float
    source: str


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a record set as it goes on the wire; `next_page` is empty on the last one."""

    records: list[list[Any]]
    next_page: bytes


class RecordStore(IStorage):  # type: ignore[misc]
    """Record sets by key id, merged slot by slot, expiring on the loop's clock.

    A record lives for what its sender says is left of it, at most the signed ttl, from when it
    arrived first; the same record sent again does not live longer. When it has expired its
    sequence number is remembered (for `spent_slots` slots), so that a replay is stale.

    Bounds: records in total, per key, per publisher, per source. Whatever is over is refused;
    nothing held is dropped for it, so a flood cannot displace what is there.
    """

    def __init__(self, limits: DhtLimits, verifier: Verifier, now: Callable[[], float]) -> None:
        self._limits = limits
        self._verifier = verifier
        self._now = now
        self._sets: dict[bytes, dict[Slot, Held]] = {}
        self._digests: dict[bytes, bytes] = {}
        self._expiries: list[tuple[float, bytes, Slot]] = []
        self._spent: OrderedDict[tuple[bytes, Slot], int] = OrderedDict()
        self._per_publisher: Counter[bytes] = Counter()
        self._per_source: Counter[str] = Counter()
        self._num_records = 0

    @property
    def num_records(self) -> int:
        """Return how many records are held. No `__len__`: kademlia replaces a falsy store."""
        return self._num_records

    def merge(self, record: Record, left_s: float, source: str) -> Status:
        """Take a record if it is newer than what is held in its slot, verified and in quota."""
        self.drop_expired()
        key = key_id(record.key)
        held = self._sets.get(key, {}).get(record.slot)
        if held is not None and held.record.rank >= record.rank:
            return Status.STORED if held.record == record else Status.STALE
        if self.is_spent(record):
            return Status.STALE
        if held is None and source != OWN and self._is_full(key, record, source):
            return Status.FULL
        if not self._verifier.accepts(record):
            return Status.REFUSED
        self._put(key, Held(record, self._now() + min(left_s, record.ttl_s), source))
        return Status.STORED

    def held(self, key: str, slot: Slot) -> Held | None:
        """Return what is held in one slot."""
        self.drop_expired()
        return self._sets.get(key_id(key), {}).get(slot)

    def own_records(self) -> list[Record]:
        """Return the live records and tombstones this node published itself."""
        return [held.record for _, all_held in self for held in all_held if held.source == OWN]

    def is_spent(self, record: Record) -> bool:
        """Return whether this record, or a newer one in its slot, has expired here."""
        self.drop_expired()
        return record.seq <= self._spent.get((key_id(record.key), record.slot), -1)

    def digest(self, key: bytes) -> bytes:
        """Return 8 bytes that are equal for equal record sets; empty for none."""
        self.drop_expired()
        if key not in self._sets:
            return b""
        if key not in self._digests:
            signatures = sorted(held.record.signature for held in self._sets[key].values())
            joined = b"".join(signatures)
            self._digests[key] = hashlib.blake2b(joined, digest_size=8).digest()
        return self._digests[key]

    def page(self, key: bytes, after: bytes, max_bytes: int) -> Page:
        """Return the records after a cursor that fit, in the order of their cursors.

        The cursor names a slot, not a position, so a set may change between two pages.
        """
        held_records: tuple[Held, ...] = self.get(key, ())
        by_cursor = {slot_cursor(held.record.slot): held for held in held_records}
        records: list[list[Any]] = []
        last = b""
        for cursor, held in sorted(by_cursor.items(), key=itemgetter(0)):
            if cursor <= after:
                continue
            max_bytes -= wire_bytes(held.record)
            if max_bytes < 0:
                return Page(records, last or after)
            records.append(held.record.wire(held.expires_at - self._now()))
            last = cursor
        return Page(records, b"")

    def drop_expired(self) -> None:
        """Forget what has expired; every read does this first."""
        now = self._now()
        while self._expiries and self._expiries[0][0] <= now:
            expires_at, key, slot = heapq.heappop(self._expiries)
            held = self._sets.get(key, {}).get(slot)
            if held is not None and held.expires_at == expires_at:
                self._remove(key, slot)

    def get(self, key: bytes, default: Any = None) -> Any:
        """Return the live records of a key id as a tuple of Held, or `default`."""
        self.drop_expired()
        return tuple(self._sets[key].values()) if key in self._sets else default

    def __getitem__(self, key: bytes) -> tuple[Held, ...]:
        """Return the live records of a key id."""
        self.drop_expired()
        return tuple(self._sets[key].values())

    def __setitem__(self, key: bytes, value: object) -> None:
        """Refuse: a record set is merged, never overwritten."""
        raise LocalProtocolError("records are merged with merge(), not assigned")

    def __iter__(self) -> Iterator[tuple[bytes, tuple[Held, ...]]]:
        """Iterate over key ids and their live records."""
        self.drop_expired()
        return iter([(key, tuple(held.values())) for key, held in self._sets.items()])

    def iter_older_than(self, seconds_old: float) -> list[tuple[bytes, Any]]:
        """Return nothing: only a publisher republishes its records."""
        return []

    def _is_full(self, key: bytes, record: Record, source: str) -> bool:
        limits = self._limits
        return (
            self._num_records >= limits.records
            or len(self._sets.get(key, ())) >= limits.records_per_key
            or self._per_publisher[record.publisher] >= limits.records_per_publisher
            or self._per_source[source] >= limits.records_per_source
        )

    def _put(self, key: bytes, held: Held) -> None:
        slots = self._sets.setdefault(key, {})
        slot = held.record.slot
        if slot in slots:
            self._count(slots[slot], -1)
        slots[slot] = held
        self._count(held, 1)
        self._digests.pop(key, None)
        heapq.heappush(self._expiries, (held.expires_at, key, slot))
        if len(self._expiries) > 2 * self._num_records + 64:
            self._rebuild_expiries()

    def _remove(self, key: bytes, slot: Slot) -> None:
        slots = self._sets[key]
        held = slots.pop(slot)
        self._count(held, -1)
        self._digests.pop(key, None)
        if not slots:
            del self._sets[key]
        self._spent[key, slot] = held.record.seq
        self._spent.move_to_end((key, slot))
        if len(self._spent) > self._limits.spent_slots:
            self._spent.popitem(last=False)

    def _count(self, held: Held, sign: int) -> None:
        self._num_records += sign
        for counter, name in (
            (self._per_publisher, held.record.publisher),
            (self._per_source, held.source),
        ):
            _add(counter, name, sign)

    def _rebuild_expiries(self) -> None:
        """Drop the entries of superseded records, which a fast updater would pile up."""
        self._expiries = [
            (held.expires_at, key, slot)
            for key, slots in self._sets.items()
            for slot, held in slots.items()
        ]
        heapq.heapify(self._expiries)


def wire_bytes(record: Record) -> int:
    """Return an upper bound of a record's size on the wire."""
    fixed = 1 + 34 + 66 + 9 + 5 + 5 + 6  # list, key, signature, seq, ttl, left, two bin headers
    return fixed + len(record.subkey.encode()) + len(record.value)


def _add(counter: Counter[Any], name: Any, sign: int) -> None:
    counter[name] += sign
    if not counter[name]:
        del counter[name]
