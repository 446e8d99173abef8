"""Keeping own records alive: at once when they change, at a third of the ttl, when nodes come."""

import asyncio
from dataclasses import dataclass

from distqatd.base.backoff import Backoff
from distqatd.base.rng import Rng
from distqatd.base.tasks import Supervisor
from distqatd.dht.contact import Contact
from distqatd.dht.protocol import loop_now
from distqatd.dht.publish import Publisher

SETTLE_S = 0.3
"""After a new contact: one write for a burst of joins."""

MIN_INTERVAL_S = 2.0
"""Between two writes of an unchanged value, whatever contacts come."""


@dataclass(slots=True)
class _Own:
    """A record of ours. `value` None: withdrawn, to be dropped once its tombstone is written."""

    key: str
    subkey: str
    value: bytes | None
    ttl_s: float
    due_at: float = 0.0
    stored_at: float = float("-inf")
    num_alone: int = 0
    busy: bool = False
    changed: bool = False


class Announcer:
    """The records this peer wants the swarm to see, each written by `run` when it is due."""

    def __init__(self, publisher: Publisher, rng: Rng) -> None:
        self._publisher = publisher
        self._rng = rng
        self._own: dict[tuple[str, str], _Own] = {}
        self._woken = asyncio.Event()
        self._alone = Backoff(first_s=1.0, cap_s=30.0)

    def __len__(self) -> int:
        """Return how many records are kept alive."""
        return len(self._own)

    def announce(self, key: str, subkey: str, value: bytes, ttl_s: float) -> None:
        """Keep a value alive; a changed one is written at once, an unchanged one costs nothing."""
        own = self._own.get((key, subkey))
        if own is None:
            self._own[key, subkey] = _Own(key, subkey, value, ttl_s)
        elif (own.value, own.ttl_s) == (value, ttl_s):
            return
        else:
            own.value, own.ttl_s = value, ttl_s
            own.due_at, own.changed = 0.0, True
        self._woken.set()

    def withdraw(self, key: str, subkey: str) -> None:
        """Stop keeping it alive and write a tombstone."""
        own = self._own.get((key, subkey))
        if own is not None:
            own.value, own.due_at, own.changed = None, 0.0, True
            self._woken.set()

    def contact_added(self, contact: Contact) -> None:
        """Write again soon what a new node should hold."""
        now = loop_now()
        for own in self._own.values():
            if self._publisher.is_affected(own.key, contact):
                soon = max(now + SETTLE_S, own.stored_at + MIN_INTERVAL_S)
                own.due_at = min(own.due_at, soon)
                self._woken.set()

    async def run(self) -> None:
        """Write what is due, for ever."""
        async with Supervisor("dht.announce", self._rng) as writes:
            while True:
                for own in self._due():
                    own.busy = True
                    writes.spawn(self._write(own), name="write")
                await self._wait()

    def clear(self) -> None:
        """Keep nothing alive any more."""
        self._own.clear()

    def _due(self) -> list[_Own]:
        now = loop_now()
        return [own for own in self._own.values() if not own.busy and own.due_at <= now]

    async def _wait(self) -> None:
        waiting = [own.due_at for own in self._own.values() if not own.busy]
        self._woken.clear()
        try:
            async with asyncio.timeout_at(min(waiting, default=None)):
                await self._woken.wait()
        except TimeoutError:
            pass  # something is due

    async def _write(self, own: _Own) -> None:
        value, own.changed = own.value, False
        num_holders = 1
        try:
            num_holders = await self._publisher.publish(own.key, own.subkey, value, own.ttl_s)
        finally:
            own.busy = False
            self._schedule(own, num_holders)
            self._woken.set()
        if value is None and not own.changed:
            self._forget(own)

    def _forget(self, own: _Own) -> None:
        if self._own.get((own.key, own.subkey)) is own:
            del self._own[own.key, own.subkey]

    def _schedule(self, own: _Own, num_holders: int) -> None:
        own.stored_at = loop_now()
        refresh_s = own.ttl_s / 3 * self._rng.uniform(0.9, 1.0)
        own.num_alone = own.num_alone + 1 if num_holders == 1 else 0
        if own.num_alone:
            refresh_s = min(refresh_s, self._alone.delay_s(own.num_alone, self._rng))
        if not own.changed:
            own.due_at = own.stored_at + refresh_s
