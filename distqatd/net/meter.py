"""How fast our links carry bytes while there is something to carry. No I/O, no clock.

An average over an exchange says how fast the slowest member was, since all wait for it. So the
bytes that one stream moves while it is busy make a sample: what *all* streams have moved in that
time, because they share one line, over the time. Waits for others are never inside a sample that
sends: it begins when the kernel takes no more, and a pause ends it. What is received may have been
sent slowly; there the fastest quarter of the bytes tells.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SPAN_BYTES = 256 << 10
"""Bytes of one stream in a sample: the kernel takes and hands over bytes in lumps of 128 KiB."""

MIN_SPAN_S = 5e-3
"""Shorter ones measure how fast the kernel copies, and the clock's resolution."""

PAUSE_S = 0.25
"""Nothing received on a stream for so long: it was not busy. At 1 Mbit/s packets are 36 ms apart
on each of three links."""

SEND_PAUSE_S = 5e-3
"""Between two frames on a busy stream lies no time at all."""

FAST_SHARE = 0.25
"""The share of the bytes that went at the speed that counts, or faster."""

MAX_SAMPLES = 1024
"""The newest are kept: 256 MiB of traffic at least."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Bytes/s that were sent and received while there was something to carry; 0 is unknown."""

    up: float = 0.0
    down: float = 0.0


class Gauge:
    """One direction of all streams together.

    Attributes:
        total: bytes moved so far.
        samples: (bytes of one stream, bytes/s of all), oldest first.
    """

    def __init__(self) -> None:
        self.total = 0
        self.samples: deque[tuple[int, float]] = deque(maxlen=MAX_SAMPLES)

    def rate(self) -> float:
        """Return the bytes/s at which the fastest quarter of the bytes went; 0 if unknown."""
        return fast_rate(self.samples)


class Span:
    """What one stream moves in one direction, cut into samples."""

    def __init__(self, gauge: Gauge, pause_s: float) -> None:
        """Begin none.

        Args:
            gauge: of all streams in this direction.
            pause_s: a longer time without bytes is no part of a sample.
        """
        self._gauge = gauge
        self._pause_s = pause_s
        self._began_s: float | None = None
        self._began_total = 0
        self._bytes = 0
        self._last_s = 0.0

    def begin(self, now: float) -> None:
        """Begin a sample, unless one is under way: the stream is busy from now on."""
        if self._began_s is None:
            self._began_s, self._began_total, self._bytes = now, self._gauge.total, 0
            self._last_s = now

    def resume(self, now: float) -> None:
        """Drop the sample if the stream has paused."""
        if now - self._last_s > self._pause_s:
            self._began_s = None

    def moved(self, num_bytes: int, now: float) -> None:
        """Count bytes, and end the sample if it is long enough."""
        self._gauge.total += num_bytes
        self._last_s = now
        if self._began_s is None:
            return
        self._bytes += num_bytes
        seconds = now - self._began_s
        if self._bytes >= SPAN_BYTES and seconds >= MIN_SPAN_S:
            rate = (self._gauge.total - self._began_total) / seconds
            self._gauge.samples.append((self._bytes, rate))
            self._began_s = None
            self.begin(now)


class Meter:
    """Both directions of all streams of a transport.

    Attributes:
        is_on: whether anybody wants to know; streams count nothing otherwise.
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self.up, self.down = Gauge(), Gauge()
        self.is_on = False
        self._num_watching = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Measure inside of the `with`; the first of several that overlap begins anew."""
        if not self._num_watching:
            self.up.samples.clear()
            self.down.samples.clear()
        self._num_watching += 1
        self.is_on = True
        try:
            yield
        finally:
            self._num_watching -= 1
            self.is_on = self._num_watching > 0

    def speed(self) -> Speed:
        """Return what was measured since the watching began, also when it is over."""
        return Speed(self.up.rate(), self.down.rate())


def fast_rate(samples: Iterable[tuple[int, float]]) -> float:
    """Return the highest rate that FAST_SHARE of the bytes had; samples are (bytes, bytes/s).

    The fastest sample alone would be one in which the kernel handed over what it had kept while
    we were busy; most of them may be waits for a slow peer.
    """
    fastest_first = sorted(samples, key=lambda sample: -sample[1])
    wanted = FAST_SHARE * sum(num_bytes for num_bytes, _ in fastest_first)
    seen = 0
    for num_bytes, rate in fastest_first:
        seen += num_bytes
        if seen >= wanted:
            return rate
    return 0.0
