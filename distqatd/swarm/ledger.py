"""Which batches of the run are leased, committed, and by whom: the client's book.

Batch b of the run is a pure function of (seed, epoch, b), so a lease is only a range of
numbers. Every lease has a fencing number that grows; a report with an old fence is counted as
what it is and never moves the book back.
"""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Lease:
    """A range [first, end) of batches lent to a pipeline; `done` of them are committed."""

    fence: int
    pipeline: int
    first: int
    end: int
    next: int

    @property
    def is_done(self) -> bool:
        """Return whether every batch of the range is committed."""
        return self.next >= self.end


@dataclass(slots=True)
class Ledger:
    """The book. Bounded: a lease for each pipeline, and the ranges given back."""

    lease_size: int
    next_batch: int = 0
    next_fence: int = 1
    committed: int = 0
    replayed: int = 0
    duplicated: int = 0
    leases: dict[int, Lease] = field(default_factory=dict)
    returned: list[tuple[int, int]] = field(default_factory=list)

    def grant(self, pipeline: int) -> Lease:
        """Lend the pipeline its unfinished range under a new fence, else a returned or new one."""
        held = self.leases.get(pipeline)
        if held is not None and not held.is_done:
            first, end = held.next, held.end
        elif self.returned:
            first, end = self.returned.pop(0)
        else:
            first, end = self.next_batch, self.next_batch + self.lease_size
            self.next_batch = end
        lease = Lease(self.next_fence, pipeline, first, end, first)
        self.next_fence += 1
        self.leases[pipeline] = lease
        return lease

    def commit(
        self, pipeline: int, fence: int, next_batch: int, num_replayed: int, num_skipped: int = 0
    ) -> bool:
        """Record that the lease's batches below `next_batch` are committed.

        `num_skipped` of them were given up for good since the last report: they count as lost.

        Returns:
            False if the fence is not the pipeline's current one: the reporter must stop.
        """
        lease = self.leases.get(pipeline)
        if lease is None or lease.fence != fence:
            self.duplicated += self._overlap(lease, fence, next_batch)
            return False
        advance = max(0, min(next_batch, lease.end) - lease.next)
        self.committed += advance - min(max(0, num_skipped), advance)
        lease.next += advance
        self.replayed += num_replayed
        return True

    @staticmethod
    def _overlap(lease: Lease | None, fence: int, next_batch: int) -> int:
        """Return how many batches an old leaseholder trained that were lent again since."""
        if lease is None or fence > lease.fence:
            return 0
        return max(0, min(next_batch, lease.end) - lease.first)

    def release(self, pipeline: int) -> None:
        """Take back what a pipeline that ends has not committed."""
        lease = self.leases.pop(pipeline, None)
        if lease is not None and not lease.is_done:
            self.returned.append((lease.next, lease.end))

    def lost(self) -> int:
        """Return the batches that were lent and are neither committed nor lent nor returned.

        These were skipped by their trainers, or something is wrong.
        """
        open_batches = sum(lease.end - lease.next for lease in self.leases.values())
        waiting = sum(end - first for first, end in self.returned)
        return self.next_batch - self.committed - open_batches - waiting
