"""kademlia's routing table with its faults repaired and its clock and tasks taken away.

Kept: the buckets, their splitting rule and the Node type. Changed: the
nearest k are exact; a bucket's upper bound is inclusive everywhere; one lost datagram evicts
nobody; contacts per source are bounded; a full bucket keeps its proven contacts; nothing pings in
a task nobody owns. Why: docs/kademlia.md.
"""

import bisect
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator

from kademlia.node import Node  # noqa: TID251  dht is where kademlia lives
from kademlia.routing import KBucket, RoutingTable  # noqa: TID251

from distqatd.dht.contact import Contact, Endpoint
from distqatd.dht.limits import DhtLimits
from distqatd.dht.quotas import source_of

MAX_ID = 2**160 - 1
MAX_REMEMBERED_FAILURES = 512


class Bucket(KBucket):  # type: ignore[misc]
    """A kademlia bucket on an injected clock."""

    nodes: OrderedDict[bytes, Contact]

    def __init__(self, low: int, high: int, size: int, now: Callable[[], float]) -> None:
        self._now = now
        super().__init__(low, high, size, replacementNodeFactor=1)

    def touch_last_updated(self) -> None:
        """Note that a lookup went through here."""
        self.last_updated = self._now()

    def split(self) -> tuple["Bucket", "Bucket"]:
        """Return the two halves with the contacts shared out."""
        low, high = self.range
        middle = (low + high) // 2
        halves = (
            Bucket(low, middle, self.ksize, self._now),
            Bucket(middle + 1, high, self.ksize, self._now),
        )
        for contact in (*self.nodes.values(), *self.replacement_nodes.values()):
            halves[contact.long_id > middle].add_node(contact)
        return halves


class Table(RoutingTable):  # type: ignore[misc]
    """The contacts that have proven who and where they are."""

    buckets: list[Bucket]

    def __init__(
        self, protocol: object, own: Node, limits: DhtLimits, now: Callable[[], float]
    ) -> None:
        self._limits = limits
        self._now = now
        self._per_source: Counter[str] = Counter()
        self._failed: OrderedDict[bytes, float] = OrderedDict()
        super().__init__(protocol, limits.bucket_size, own)

    def __len__(self) -> int:
        """Return how many contacts there are."""
        return sum(len(bucket) for bucket in self.buckets)

    def __iter__(self) -> Iterator[Contact]:
        """Iterate over all contacts."""
        return (contact for bucket in self.buckets for contact in bucket.nodes.values())

    def flush(self) -> None:
        """Start over with one bucket for the whole id space."""
        self.buckets = [Bucket(0, MAX_ID, self.ksize, self._now)]

    def get_bucket_for(self, node: Node) -> int:
        """Return the index of the bucket whose range holds an id."""
        return bisect.bisect_left(self.buckets, node.long_id, key=_upper)

    def find(self, contact_id: bytes) -> Contact | None:
        """Return the contact with this id."""
        bucket = self.buckets[bisect.bisect_left(self.buckets, _number(contact_id), key=_upper)]
        return bucket.nodes.get(contact_id)

    def wants(self, contact_id: bytes, endpoint: Endpoint) -> bool:
        """Return whether a proof of this stranger would earn it a place."""
        if contact_id == self.node.id or contact_id in self._failed_lately():
            return False
        if self._per_source[source_of(endpoint)] >= self._limits.contacts_per_source:
            return False
        bucket = self.buckets[bisect.bisect_left(self.buckets, _number(contact_id), key=_upper)]
        return len(bucket) < self.ksize or self._may_split(bucket)

    def may_move(self, contact: Contact) -> bool:
        """Return whether a contact may turn up elsewhere: it has failed, or long been silent."""
        silent_s = self._now() - contact.heard_at
        return contact.num_failures > 0 or silent_s >= self._limits.silent_contact_s

    def add_contact(self, node: Contact) -> bool:
        """Take in a proven contact; return whether there was room for it.

        A known one that has moved replaces its old self only if that has failed or gone silent.
        """
        self._failed.pop(node.id, None)
        old = self.find(node.id)
        if old is not None:
            return self._replace(old, node)
        if not self.wants(node.id, node.endpoint):
            return False
        bucket = self.buckets[self.get_bucket_for(node)]
        while len(bucket) >= self.ksize:
            if not self._may_split(bucket):
                return False
            self.split_bucket(self.get_bucket_for(node))
            bucket = self.buckets[self.get_bucket_for(node)]
        node.heard_at = self._now()
        bucket.add_node(node)
        self._per_source[source_of(node.endpoint)] += 1
        return True

    def remove_contact(self, node: Node) -> None:
        """Let a contact go."""
        contact = self.find(node.id)
        if contact is not None:
            self._uncount(contact)
            super().remove_contact(contact)

    def heard(self, contact_id: bytes, endpoint: Endpoint) -> bool:
        """Note that a contact spoke from its address; return whether it is known there."""
        contact = self.find(contact_id)
        if contact is None or contact.endpoint != endpoint:
            return False
        contact.num_failures = 0
        contact.heard_at = self._now()
        return True

    def failed(self, contact: Contact) -> None:
        """Note that a contact left all tries of a request unanswered; evict it the second time."""
        known = self.find(contact.id)
        if known is not None and known.endpoint == contact.endpoint:
            known.num_failures += 1
            if known.num_failures < self._limits.evict_after_failures:
                return
            self.remove_contact(known)
        self._failed[contact.id] = self._now() + self._limits.forget_failed_s
        self._failed.move_to_end(contact.id)
        if len(self._failed) > MAX_REMEMBERED_FAILURES:
            self._failed.popitem(last=False)

    def failed_lately(self, contact: Contact) -> bool:
        """Return whether this one, named by others, has just left our requests unanswered."""
        return contact.id in self._failed_lately()

    def find_neighbors(
        self, node: Node, k: int | None = None, exclude: bytes | None = None
    ) -> list[Contact]:
        """Return the k contacts nearest to an id, nearest first, fewer only if there are fewer."""
        count = k or self.ksize
        target = node.long_id
        found: list[Contact] = []
        for bucket in sorted(self.buckets, key=lambda bucket: _distance(bucket, target)):
            found += [c for c in bucket.nodes.values() if c.id not in (node.id, exclude)]
            if len(found) >= count:
                break
        found.sort(key=lambda contact: contact.long_id ^ target)
        return found[:count]

    def lonely_buckets(self) -> list[Bucket]:
        """Return the buckets no lookup went through for a while."""
        before = self._now() - self._limits.refresh_bucket_s
        return [bucket for bucket in self.buckets if bucket.last_updated < before]

    def touch_bucket(self, node: Node) -> None:
        """Note that a lookup for this id was made."""
        self.buckets[self.get_bucket_for(node)].touch_last_updated()

    def _may_split(self, bucket: Bucket) -> bool:
        """Kademlia section 4.2: the own bucket always splits, others to a bounded depth."""
        wide = bucket.range[0] < bucket.range[1]
        return wide and bool(bucket.has_in_range(self.node) or bucket.depth() % 5 != 0)

    def _replace(self, old: Contact, new: Contact) -> bool:
        moved = old.endpoint != new.endpoint
        if moved and not self.may_move(old):
            return False
        self._uncount(old)
        new.heard_at = self._now()
        self.buckets[self.get_bucket_for(new)].add_node(new)
        self._per_source[source_of(new.endpoint)] += 1
        return moved

    def _uncount(self, contact: Contact) -> None:
        source = source_of(contact.endpoint)
        self._per_source[source] -= 1
        if self._per_source[source] <= 0:
            del self._per_source[source]

    def _failed_lately(self) -> OrderedDict[bytes, float]:
        now = self._now()
        while self._failed and next(iter(self._failed.values())) <= now:
            self._failed.popitem(last=False)
        return self._failed


def _number(contact_id: bytes) -> int:
    return int.from_bytes(contact_id, "big")


def _upper(bucket: Bucket) -> int:
    high: int = bucket.range[1]
    return high


def _distance(bucket: Bucket, target: int) -> int:
    """A bucket covers one prefix: order buckets by how far that prefix is from the target's."""
    low, high = bucket.range
    distance: int = (target ^ low) & ~(high - low)
    return distance
