"""The decisions of one lookup, without I/O: whom to ask next, whom to wait for, when to stop.

Event-driven, no rounds: at most `parallel` queries are under way that have not timed out once. A
query that has timed out as often as our patience says is not waited for any more; an answer is
taken all the same if it comes while the lookup lasts. Patience is one timeout once a quorum has
answered, two after the first answer, all tries before: in a swarm of two, one lost datagram must
not make a get come back empty.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from distqatd.base.errors import RemoteProtocolError
from distqatd.dht.contact import Contact
from distqatd.dht.limits import DhtLimits
from distqatd.dht.messages import FindReply
from distqatd.dht.record import Record, Slot, Verifier


@dataclass(slots=True)
class _Candidate:
    contact: Contact
    distance: int
    depth: int
    asked: bool = False
    answered: bool = False
    num_timeouts: int = 0


class Search:
    """Candidates of a lookup, by distance to the target.

    Args:
        target: the id looked for, as a number.
        own_id: never a candidate.
        width: how many of the nearest must have answered.
        limits: parallelism, quorum, tries.
    """

    def __init__(self, target: int, own_id: bytes, width: int, limits: DhtLimits) -> None:
        self._target = target
        self._own_id = own_id
        self._width = width
        self._limits = limits
        self._candidates: dict[bytes, _Candidate] = {}
        self._ranked: list[_Candidate] | None = None
        self._num_answered = 0
        self.depth = 0

    def learn(self, contacts: Iterable[Contact], depth: int) -> None:
        """Add candidates, `depth` answers away from our own table."""
        for contact in contacts:
            if contact.id != self._own_id and contact.id not in self._candidates:
                distance = contact.long_id ^ self._target
                self._candidates[contact.id] = _Candidate(contact, distance, depth)
                self._ranked = None

    def answered(self, contact: Contact) -> int:
        """Note an answer; return how deep whatever it names is."""
        candidate = self._candidates[contact.id]
        candidate.answered = True
        self._num_answered += 1
        self.depth = max(self.depth, candidate.depth)
        return candidate.depth + 1

    def failed(self, contact: Contact) -> None:
        """Note that this one will not answer."""
        self._candidates[contact.id].num_timeouts = self._limits.tries
        self._ranked = None

    def slow(self, contact: Contact, num_timeouts: int) -> None:
        """Note that a query has timed out so often."""
        self._candidates[contact.id].num_timeouts = num_timeouts
        self._ranked = None

    def next_to_ask(self, num_in_hand: int = 0) -> list[Contact]:
        """Return whom to ask now, marked as asked.

        Each record set in hand takes the place of a query: a get that needs one more answer has
        enough queries under way for it already.
        """
        front = self._front()
        waiting = sum(c.asked and not c.answered and not c.num_timeouts for c in front)
        room = max(0, self._limits.parallel - waiting - num_in_hand)
        fresh = [candidate for candidate in front if not candidate.asked][:room]
        for candidate in fresh:
            candidate.asked = True
        return [candidate.contact for candidate in fresh]

    @property
    def finished(self) -> bool:
        """Return whether the nearest we may hope for have all answered."""
        return all(candidate.answered for candidate in self._front())

    def nearest(self) -> list[Contact]:
        """Return who answered, nearest first."""
        return [c.contact for c in self._ranking() if c.answered]

    def _front(self) -> list[_Candidate]:
        """Return the nearest `width` that have answered or may still do so in time."""
        patience = self._patience()
        front = []
        for candidate in self._ranking():
            if candidate.answered or candidate.num_timeouts < patience:
                front.append(candidate)
            if len(front) >= self._width:
                break
        return front

    def _patience(self) -> int:
        if self._num_answered >= self._limits.quorum:
            return 1
        return min(2, self._limits.tries) if self._num_answered else self._limits.tries

    def _ranking(self) -> list[_Candidate]:
        if self._ranked is None:
            self._ranked = sorted(self._candidates.values(), key=lambda c: c.distance)
        return self._ranked


@dataclass(frozen=True, slots=True)
class PageWanted:
    """The page after `after` of the set with this digest, from this holder."""

    holder: Contact
    digest: bytes
    after: bytes


class Collector:
    """Merges the record sets of several holders, each set fetched once, page by page.

    A holder whose set is already being fetched from another one stands by: if a page does not
    come, the next page is asked of it instead.

    Args:
        key: whose records.
        verifier: what it refuses is left out; the rest of the page stays.
        max_records: kept at most.
        max_pages: fetched at most of one set.
    """

    def __init__(self, key: str, verifier: Verifier, max_records: int, max_pages: int) -> None:
        self._key = key
        self._verifier = verifier
        self._max_records = max_records
        self._max_pages = max_pages
        self._pages: Counter[bytes] = Counter()
        self._standing_by: dict[bytes, list[PageWanted]] = {}
        self._digests: dict[bytes, bytes] = {}
        self._complete: set[bytes] = set()
        self.records: dict[Slot, Record] = {}

    @property
    def num_complete(self) -> int:
        """Return how many holders' record sets we have all of."""
        return sum(digest in self._complete for digest in self._digests.values())

    def add(
        self, holder: Contact, reply: FindReply | None, asked: PageWanted | None = None
    ) -> PageWanted | None:
        """Take a page (the first, or the one asked for; None if it did not come).

        Returns:
            The page to ask for next, if any.
        """
        if reply is None:
            return self._instead_of(asked)
        if not reply.digest:
            return None
        digest = reply.digest if asked is None else asked.digest
        self._digests[holder.id] = digest
        num_good = sum(self._merge(fields) for fields in reply.records)
        if not reply.next_page:
            self._complete.add(digest)
            return None
        if not num_good:  # a page of nothing that promises more
            return None
        wanted = PageWanted(holder, digest, reply.next_page)
        if asked is None and digest in self._pages:
            self._standing_by.setdefault(digest, []).append(wanted)
            return None
        self._pages[digest] += 1
        return wanted if self._pages[digest] < self._max_pages else None

    def _instead_of(self, failed: PageWanted | None) -> PageWanted | None:
        others = self._standing_by.get(failed.digest) if failed is not None else None
        return others.pop() if others else None

    def _merge(self, fields: object) -> bool:
        """Take one record; return whether it was good, be it new or not."""
        try:
            record, _ = Record.parse(self._key, fields)
        except RemoteProtocolError:
            return False
        held = self.records.get(record.slot)
        if held is None and len(self.records) >= self._max_records:
            return False
        if not self._verifier.accepts(record):
            return False
        if held is None or held.rank < record.rank:
            self.records[record.slot] = record
        return True
