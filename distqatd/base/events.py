"""What happened, for people: a bounded log of state changes that `distqatctl events` shows.

An event has a constant dotted kind and fields. Logs and events share names, so a line in a
log file can be found from an event and the other way round.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from distqatd.base.clock import Clock

log = logging.getLogger(__name__)

FieldValue = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Event:
    """One state change. `number` grows by one per event of this daemon's life."""

    number: int
    time_unix_s: float
    kind: str
    fields: dict[str, FieldValue] = field(default_factory=dict)
    degraded: bool = False


class EventLog:
    """The last `capacity` events, and whoever follows them.

    A follower that does not keep up loses the oldest events of its own queue, never ours.
    """

    def __init__(self, clock: Clock, capacity: int = 1000) -> None:
        self._clock = clock
        self._events: deque[Event] = deque(maxlen=capacity)
        self._followers: set[asyncio.Queue[Event]] = set()
        self._next_number = 1

    def emit(self, kind: str, /, *, degraded: bool = False, **fields: FieldValue) -> Event:
        """Record an event and log it: WARNING if `degraded`, else INFO."""
        event = Event(self._next_number, self._clock.now(), kind, fields, degraded)
        self._next_number += 1
        self._events.append(event)
        for queue in self._followers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)
        log.log(logging.WARNING if degraded else logging.INFO, kind, extra={"fields": fields})
        return event

    def since(self, number: int = 0) -> list[Event]:
        """Return the kept events with a number above `number`, oldest first."""
        return [event for event in self._events if event.number > number]

    async def follow(self, number: int = 0) -> AsyncIterator[Event]:
        """Yield the kept events above `number`, then new ones as they come; never ends."""
        with self._subscription() as queue:
            for event in self.since(number):
                yield event
            while True:
                yield await queue.get()

    @contextmanager
    def _subscription(self) -> Iterator[asyncio.Queue[Event]]:
        queue: asyncio.Queue[Event] = asyncio.Queue(maxsize=256)
        self._followers.add(queue)
        try:
            yield queue
        finally:
            self._followers.discard(queue)
