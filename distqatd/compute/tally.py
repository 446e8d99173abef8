"""What an expert has trained: steps, samples, speed, and its book of batches."""

from dataclasses import dataclass, field

from distqatd.compute.book import BatchBook
from distqatd.compute.work import Work

RATE_SMOOTHING = 0.1
"""Weight of the newest inner step in `samples_per_s`."""


@dataclass(slots=True)
class Tally:
    """Counters of one expert. Written on the compute thread, read from any.

    Attributes:
        inner_step: inner steps applied since the expert was made.
        work: what was applied since outer steps.
        samples_per_s: samples per second of computing, smoothed; 0.0 until measured.
        book: the batches applied.
        num_divergences: how often it went back to its anchor.
    """

    inner_step: int = 0
    work: Work = field(default_factory=Work)
    samples_per_s: float = 0.0
    book: BatchBook = field(default_factory=BatchBook)
    num_divergences: int = 0
    _busy_s: float = 0.0

    def worked(self, seconds: float) -> None:
        """Count computing time of the open step."""
        self._busy_s += seconds

    def dropped(self) -> None:
        """Forget the computing time of a step that was given up."""
        self._busy_s = 0.0

    def applied(self, num_samples: int, batch: int | None) -> None:
        """Count an inner step; `batch` None is one that is in no book."""
        self.inner_step += 1
        self.work = self.work.trained(num_samples)
        if batch is not None:
            self.book = self.book.note(batch)
        busy_s, self._busy_s = self._busy_s, 0.0
        if busy_s > 0:
            rate = num_samples / busy_s
            weight = RATE_SMOOTHING if self.samples_per_s else 1.0
            self.samples_per_s += weight * (rate - self.samples_per_s)

    def anchored(self, book: BatchBook, work: Work | None = None) -> None:
        """Start over from an anchor with this book; `work` is kept."""
        self.work = self.work.nothing() if work is None else work
        self.book = book


class Counted:
    """What everybody may read of what an expert has trained, from any thread."""

    _tally: Tally

    @property
    def num_divergences(self) -> int:
        """Return how often parameters were not finite and went back to the anchor."""
        return self._tally.num_divergences

    @property
    def inner_step(self) -> int:
        """Return how many inner steps this expert has applied."""
        return self._tally.inner_step

    @property
    def samples_since_anchor(self) -> int:
        """Return the samples that are not in every fragment of the anchor."""
        return self._tally.work.unsent

    @property
    def steps_since_anchor(self) -> int:
        """Return the inner steps applied since the last outer step."""
        return self._tally.work.steps

    @property
    def samples_per_s(self) -> float:
        """Return samples per second of computing, waiting not counted; 0.0 until measured."""
        return self._tally.samples_per_s

    @property
    def book(self) -> BatchBook:
        """Return which batches the parameters have been trained on."""
        return self._tally.book
