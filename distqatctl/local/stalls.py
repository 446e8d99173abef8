"""How long experts stood still: looks at their progress again and again."""

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from distqatctl.errors import CommandFailed
from distqatctl.local.fleet import Fleet
from distqatd.api.schema import Status

Position = tuple[int, int]
"""Outer step and inner step of an expert."""


@dataclass(slots=True)
class Stalls:
    """The longest time without a committed step, of each expert; as fine as it is looked at."""

    _positions: dict[str, tuple[Position, float]] = field(default_factory=dict)
    _moved_at: dict[str, float] = field(default_factory=dict)
    longest_s: dict[str, float] = field(default_factory=dict)

    def note(self, uid: str, position: Position, now: float) -> None:
        """Take in where an expert stands."""
        known, since = self._positions.get(uid, (None, now))
        if known != position:
            self._positions[uid] = (position, now)
        if known not in {None, position}:
            self._moved_at[uid] = now
        stood_s = now - since
        self.longest_s[uid] = max(self.longest_s.get(uid, 0.0), stood_s)

    def all_moved_since(self, uids: Iterable[str], instant: float) -> bool:
        """Return whether each of these experts was seen to take a step after an instant."""
        return all(self._moved_at.get(uid, -math.inf) > instant for uid in uids)

    def longest(self, uids: Iterable[str]) -> float | None:
        """Return the longest of these experts, in seconds; None if none was looked at."""
        return max((self.longest_s[uid] for uid in uids if uid in self.longest_s), default=None)


def look(fleet: Fleet, daemons: Iterable[str], stalls: Stalls, now: float) -> None:
    """Ask daemons where their experts stand; one that does not answer stands still for now."""
    for name in daemons:
        with suppress(CommandFailed):
            for expert in fleet.client(name).get(Status, "/v1/status").experts:
                stalls.note(expert.uid, (expert.outer_step, expert.inner_step), now)
