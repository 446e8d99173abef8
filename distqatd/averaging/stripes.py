"""Which chunk is fetched from which donor. Pure bookkeeping: no I/O, time is passed in.

Donors that are faster come back sooner for more, so work divides by measured speed all by itself.
Only the end needs a rule: a fast donor that has nothing left to do takes over a chunk that is on
its way from a slow one, if it would have it in half the time.
"""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from distqatd.base.decision import Decision

SLOW_CHUNK_S = 10.0
"""Above this many seconds a chunk, only one at a time is asked of a donor: the link is full."""

MIN_AGE_S = 1.0
"""A chunk younger than this is never taken over."""

SMOOTHING = 0.3
"""Weight of the newest chunk in a donor's pace."""


@dataclass(slots=True)
class Pace:
    """How fast a donor is: seconds from asking for a chunk to having it; 0 until measured."""

    chunk_s: float = 0.0

    def add(self, seconds: float) -> None:
        """Take one more measurement."""
        weight = SMOOTHING if self.chunk_s else 1.0
        self.chunk_s += weight * (seconds - self.chunk_s)

    @property
    def window(self) -> int:
        """Return how many chunks to ask for at once: two hide the round trip."""
        return 2 if 0 < self.chunk_s < SLOW_CHUNK_S else 1


@dataclass(frozen=True, slots=True)
class Flight:
    """A chunk on its way."""

    index: int
    donor: str
    began: float
    expected_s: float
    """What the donor needs for a chunk; 0 if it is not known."""


def take_over(flight: Flight, idle_chunk_s: float, now: float) -> Decision[bool]:
    """Decide whether a donor with nothing to do fetches this chunk instead.

    Args:
        flight: the chunk.
        idle_chunk_s: seconds the idle donor needs for a chunk.
        now: the time, as in `flight.began`.
    """
    age_s = now - flight.began
    own_s = max(idle_chunk_s, MIN_AGE_S / 2)
    left_s = flight.expected_s - age_s
    text = f"under way for {age_s:.1f} s of {flight.expected_s:.1f} s, another needs {own_s:.1f} s"
    if age_s < MIN_AGE_S:
        return Decision(value=False, reason=text)
    is_overdue = age_s > 2 * max(flight.expected_s, own_s)
    return Decision(value=is_overdue or left_s > 2 * own_s, reason=text)


class ChunkBoard:
    """The chunks of one transfer: open, on their way, or here."""

    def __init__(self, num: int) -> None:
        self.total = num
        self._open = deque(range(num))
        self._flying: dict[int, Flight] = {}
        self._done: set[int] = set()
        self._taken_from: dict[int, set[str]] = {}

    @property
    def num_left(self) -> int:
        """Return how many chunks are not here."""
        return self.total - len(self._done)

    def start(self, donor: str, pace: Pace, now: float) -> Flight | None:
        """Give a donor the next open chunk that it has not been too slow with."""
        index = next((i for i in self._open if donor not in self._taken_from.get(i, ())), None)
        if index is None:
            return None
        self._open.remove(index)
        return self._fly(index, donor, pace, now)

    def steal(
        self, donor: str, pace: Pace, now: float, others: Collection[str]
    ) -> tuple[Flight, Flight, str] | None:
        """Give an idle donor a chunk of one of the `others`; return theirs, ours and why."""
        for flight in sorted(self._flying.values(), key=lambda flight: flight.began):
            if flight.donor == donor or flight.donor not in others:
                continue
            decision = take_over(flight, pace.chunk_s, now)
            if decision.value and donor not in self._taken_from.get(flight.index, ()):
                self._taken_from.setdefault(flight.index, set()).add(flight.donor)
                return flight, self._fly(flight.index, donor, pace, now), decision.reason
        return None

    def land(self, flight: Flight) -> bool:
        """Note that a chunk is here; return whether it was not here before."""
        self._flying.pop(flight.index, None)
        is_new = flight.index not in self._done
        self._done.add(flight.index)
        return is_new

    def fail(self, flight: Flight) -> None:
        """Open a chunk again, unless another donor has taken it over."""
        if self._flying.get(flight.index) == flight:
            del self._flying[flight.index]
            self._open.appendleft(flight.index)

    def reopen(self) -> None:
        """Forget who was slow with what, for a transfer that goes on with other donors."""
        for flight in list(self._flying.values()):
            self.fail(flight)
        self._taken_from.clear()

    def _fly(self, index: int, donor: str, pace: Pace, now: float) -> Flight:
        flight = Flight(index, donor, now, pace.chunk_s)
        self._flying[index] = flight
        return flight
