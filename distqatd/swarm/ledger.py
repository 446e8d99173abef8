"""Which batches of the run are lent, committed and waiting, and by whom: the client's book.

Batch b of the run is a pure function of (seed, epoch, b), so a lease is only a range of numbers.

    never lent ──grant──► lent ──report──► committed
                           │ ▲
              reclaim      ▼ │ grant, under a new fence
                          waiting

Every lease has a fence, a number that grows over the whole run: the term of the client's duty in
the upper bits, a counter below. What a later client lends replaces what an earlier one lent.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from distqatd.base.intervals import IntervalSet

TERM_BITS = 32
"""Bits of a fence below the term."""

MAX_TERM = 1 << 30
"""Terms are below this, so that every fence fits into 63 bits; a peer that says more is wrong."""

MAX_OPEN = 4
"""Unfinished leases of one pipeline, at most."""


@dataclass(slots=True)
class Lease:
    """A range [first, end) of batches lent to a pipeline; those below `next` are committed."""

    fence: int
    pipeline: int
    first: int
    end: int
    next: int

    @property
    def is_done(self) -> bool:
        """Return whether every batch of the range is committed."""
        return self.next >= self.end


@dataclass(frozen=True, slots=True)
class Waiting:
    """A range [first, end) that was lent, came back and will be lent again, lowest first.

    Attributes:
        pipeline: whose experts may have applied some of it already: only it gets the range, and
            its experts skip what is in their books. -1: any pipeline.
    """

    first: int
    end: int
    pipeline: int = -1


@dataclass(slots=True)
class Ledger:
    """The book. Bounded: a few leases for each pipeline, and the ranges that came back.

    Attributes:
        term: of the client's duty; part of every fence.
        next_batch: the first batch that was never lent.
        replayed: steps that were given up; their batches came again.
        overflows: steps that were dropped because gradients overflowed; likewise.
        skipped: batches that were given up for good, because their loss is not finite.
        duplicated: batches that a stage applied twice, as the experts' rounds counted it.
    """

    lease_size: int
    term: int = 1
    next_batch: int = 0
    next_counter: int = 1
    replayed: int = 0
    overflows: int = 0
    skipped: int = 0
    duplicated: int = 0
    done: IntervalSet = field(default_factory=IntervalSet)
    leases: dict[int, Lease] = field(default_factory=dict)
    waiting: list[Waiting] = field(default_factory=list)

    @property
    def committed(self) -> int:
        """Return how many batches are committed."""
        return len(self.done) - self.skipped

    def of(self, pipeline: int) -> list[Lease]:
        """Return the unfinished leases of a pipeline, in the order they were lent."""
        return [lease for lease in self.leases.values() if lease.pipeline == pipeline]

    # --- lending

    def grant(self, pipeline: int, known: Collection[int] = ()) -> Lease | None:
        """Lend the pipeline a range: one that came back, else a new one.

        A lease that the trainer does not know (its fence is not in `known`) is offered again: the
        answer that granted it was lost.

        Returns:
            None if the pipeline holds enough.
        """
        open_leases = self.of(pipeline)
        for lease in open_leases:
            if lease.fence not in known:
                return lease
        if len(open_leases) >= MAX_OPEN:
            return None
        first, end = self._take(pipeline)
        lease = Lease(self.next_fence(), pipeline, first, end, first)
        self.leases[lease.fence] = lease
        return lease

    def next_fence(self) -> int:
        """Return a number above all that this client or one before it has given out."""
        fence = self.term << TERM_BITS | self.next_counter
        self.next_counter += 1
        return fence

    def _take(self, pipeline: int) -> tuple[int, int]:
        """Return the next range for a pipeline and strike it off."""
        for index, found in enumerate(self.waiting):
            if found.pipeline in (-1, pipeline):
                end = min(found.end, found.first + self.lease_size)
                rest = [Waiting(end, found.end, found.pipeline)] if end < found.end else []
                self.waiting[index : index + 1] = rest
                return found.first, end
        first, self.next_batch = self.next_batch, self.next_batch + self.lease_size
        return first, self.next_batch

    # --- what trainers report

    def report(self, pipeline: int, fence: int, next_batch: int, num_skipped: int = 0) -> bool:
        """Record that the lease's batches below `next_batch` are committed.

        `num_skipped` of them were given up for good since the last report: they count as lost.

        Returns:
            False if this is no open lease of the pipeline: see `late`.
        """
        lease = self.leases.get(fence)
        if lease is None or lease.pipeline != pipeline:
            return False
        end = min(max(next_batch, lease.next), lease.end)
        self.skipped += min(max(0, num_skipped), end - lease.next)
        self.done = self.done.add(lease.next, end)
        lease.next = end
        if lease.is_done:
            del self.leases[fence]
        return True

    def late(self, first: int, end: int) -> None:
        """Believe a trainer whose lease is not open any more: it committed [first, end).

        What waits of it need not be trained again. What was lent again by now stays with its
        holder, whose experts skip what is in their books.
        """
        held = IntervalSet.from_pairs((x.next, x.end) for x in self.leases.values())
        lent = IntervalSet.from_pairs([(0, self.next_batch)])
        self.settle(IntervalSet.from_pairs([(first, end)]).common(lent).minus(held))

    # --- what comes back

    def reclaim(self, pipeline: int) -> None:
        """Take back what a pipeline has not committed; its next trainer gets it first."""
        for lease in self.of(pipeline):
            del self.leases[lease.fence]
            self.waiting.append(Waiting(lease.next, lease.end, pipeline))
        self.waiting.sort(key=lambda found: found.first)

    def settle(self, applied: IntervalSet) -> None:
        """Strike off what waits but is in the books of every stage: it is committed."""
        found = IntervalSet.from_pairs((w.first, w.end) for w in self.waiting).common(applied)
        self.done = self.done.union(found)
        self.waiting = [
            Waiting(first, end, old.pipeline)
            for old in self.waiting
            for first, end in IntervalSet.from_pairs([(old.first, old.end)]).minus(found).pairs
        ]

    def free(self, pipelines: Iterable[int]) -> None:
        """Let everybody have what waits for pipelines that will not come back."""
        gone = set(pipelines)
        self.waiting = [Waiting(w.first, w.end) if w.pipeline in gone else w for w in self.waiting]

    # --- the sums

    def lost(self) -> int:
        """Return the batches below `next_batch` that are not committed, lent, or waiting.

        These were given up by their trainers, or something is wrong.
        """
        lent = sum(lease.end - lease.next for lease in self.leases.values())
        waiting = sum(found.end - found.first for found in self.waiting)
        return self.next_batch - self.committed - lent - waiting
