"""The book of batches of an expert: which batches its parameters have been trained on.

The book makes a COMMIT idempotent beyond the session it belongs to. A trainer that takes over a
lease cannot know how far the one before it came at each stage; it replays from the first batch
that any stage misses, and a stage that has a batch in its book does not apply it again.
"""

from dataclasses import dataclass

from distqatd.base.intervals import IntervalSet

MAX_RANGES = 2048
"""Ranges in one set of a book: two of these fit one message (64 KiB), eight bytes a bound."""

NO_BATCHES = IntervalSet()


@dataclass(frozen=True, slots=True)
class BatchBook:
    """Immutable, so that it may be read from any thread while the expert trains.

    Attributes:
        anchor: batches inside the anchor: every replica with this anchor has the same.
        local: batches applied to this replica since; they are gone if it is.
    """

    anchor: IntervalSet = NO_BATCHES
    local: IntervalSet = NO_BATCHES

    def __contains__(self, batch: int) -> bool:
        """Return whether the parameters have been trained on a batch."""
        return batch in self.anchor or batch in self.local

    def everything(self) -> IntervalSet:
        """Return all batches the parameters have been trained on."""
        return self.anchor.union(self.local)

    def note(self, batch: int) -> "BatchBook":
        """Return the book with one more batch applied here."""
        return BatchBook(self.anchor, bounded(self.local.add(batch, batch + 1)))

    def committed(self, batches: IntervalSet) -> "BatchBook":
        """Return the book after an outer step over `batches`, those of all its members."""
        return BatchBook(bounded(self.anchor.union(batches)))

    def next_missing(self, first: int, end: int) -> int:
        """Return the first batch of [first, end) that is not in the book; `end` if all are."""
        return self.everything().next_missing(first, end)


def bounded(batches: IntervalSet, max_ranges: int = MAX_RANGES) -> IntervalSet:
    """Return the set with at most `max_ranges` ranges; the lowest holes are filled.

    A hole is a batch that was skipped, or is still to come. Thousands of holes below the batches
    of today are old and will not be trained any more; the same set gives the same result at
    every replica.
    """
    excess = len(batches.pairs) - max_ranges
    if excess <= 0:
        return batches
    return batches.add(batches.pairs[0][0], batches.pairs[excess][1])
