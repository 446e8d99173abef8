"""What a member says in READY about its line, from what its exchanges have measured.

Only the ratio between members matters, and only roughly: slices that are a tenth off cost a few
per cent. So what is said changes only when it is off by more than TOLERANCE; noise moves no slice.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from distqatd.net.meter import Meter, Speed

NEWEST_SHARE = 0.5
"""Weight of the newest exchange: a machine that slows down is seen in two."""

TOLERANCE = 0.25
"""Relative change below which a member says what it said before."""

MIN_EXCHANGE_S = 0.5
"""Bytes of a shorter exchange may still be in the kernel: they say nothing about the line."""


class Bandwidth:
    """Moving averages over the exchanges of a daemon.

    Attributes:
        speed: the averages, bytes/s.
        bytes_per_s: what others are told: what we can send while we receive as much; 0 until it
            has been measured.
    """

    def __init__(self, meter: Meter | None = None) -> None:
        """Know nothing yet; `meter` measures the links that exchanges use."""
        self.speed = Speed()
        self.bytes_per_s = 0.0
        self._meter = meter or Meter()

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Learn from the exchange that runs inside of the `with`, however it ends."""
        loop, meter = asyncio.get_running_loop(), self._meter
        began_s, sent, received = loop.time(), meter.up.total, meter.down.total
        try:
            with meter.watching():
                yield
        finally:
            seconds = loop.time() - began_s
            moved = Speed(meter.up.total - sent, meter.down.total - received)
            self.learn(meter.speed(), mean_speed(moved, seconds))

    def learn(self, newest: Speed, mean: Speed) -> None:
        """Take in an exchange.

        Args:
            newest: what the links carried while they were busy; 0 where they never were.
            mean: what they carried over all of it, waits included: they carry at least that.
        """
        self.speed = Speed(
            _moved(self.speed.up, newest.up, mean.up),
            _moved(self.speed.down, newest.down, mean.down),
        )
        self.bytes_per_s = said(self.bytes_per_s, self.speed)


def mean_speed(moved: Speed, seconds: float) -> Speed:
    """Return bytes as bytes/s; unknown if they were too quick to tell."""
    if seconds < MIN_EXCHANGE_S:
        return Speed()
    return Speed(moved.up / seconds, moved.down / seconds)


def said(before: float, speed: Speed) -> float:
    """Return what to tell others, given what they were told before; 0 is unknown.

    A member sends as much as it receives, so the slower direction counts.
    """
    known = [rate for rate in (speed.up, speed.down) if rate > 0]
    rate = max(1.0, min(known)) if known else 0.0
    is_news = abs(rate - before) > TOLERANCE * before
    return rate if is_news else before


def _moved(old: float, newest: float, mean: float) -> float:
    """Move an average on; a line that was never busy has become no slower, perhaps faster."""
    if not old:
        return newest
    if not newest:
        return max(old, mean)
    return old + NEWEST_SHARE * (newest - old)
