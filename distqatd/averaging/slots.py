"""How many joiners a donor gives state to at once, and who is next. Pure: time is passed in."""

from dataclasses import dataclass

from distqatd.base.decision import Decision
from distqatd.base.ids import PeerId

IDLE_S = 150.0
"""A joiner that asks for nothing this long has gone; it is longer than a chunk may take."""

RETRY_S = 1.0
"""Seconds until the joiner that is next asks again; those behind it wait longer."""

MAX_RETRY_S = 10.0
MAX_WAITING = 256


@dataclass(frozen=True, slots=True)
class Joiner:
    """Who is served: a peer, and the state it fetches."""

    peer_id: PeerId
    uid: str


class UploadSlots:
    """Slots of one donor: first come, first served, and a place in line for who comes back.

    A joiner holds its slot until it frees it, is lost, or asks for nothing for IDLE_S. A refused
    one keeps its place as long as it asks again about when it was told to.
    """

    def __init__(self, num: int) -> None:
        self._num = num
        self._held: dict[Joiner, float] = {}
        # In order of arrival; the value is when the place is given up.
        self._waiting: dict[Joiner, float] = {}

    @property
    def num_held(self) -> int:
        """Return how many joiners are being served."""
        return len(self._held)

    def ask(self, joiner: Joiner, now: float) -> Decision[float]:
        """Decide how many seconds a joiner waits before it asks again; 0 means it has a slot."""
        self._expire(now)
        place = self._place_of(joiner)
        if joiner in self._held or place < self._num - len(self._held):
            self._waiting.pop(joiner, None)
            self._held[joiner] = now
            return Decision(0.0, f"{len(self._held)} of {self._num} upload slots in use")
        retry_s = min(MAX_RETRY_S, RETRY_S * (1 + place))
        if joiner in self._waiting or len(self._waiting) < MAX_WAITING:
            self._waiting[joiner] = now + 2 * retry_s
        text = f"all {self._num} upload slots in use, {place} joiners are before you"
        return Decision(retry_s, text)

    def free(self, joiner: Joiner) -> None:
        """Take back a slot or a place in line."""
        self._held.pop(joiner, None)
        self._waiting.pop(joiner, None)

    def forget(self, peer_id: PeerId) -> None:
        """Take back all that a peer holds: it is gone."""
        for joiner in [j for j in (*self._held, *self._waiting) if j.peer_id == peer_id]:
            self.free(joiner)

    def _place_of(self, joiner: Joiner) -> int:
        """Return how many wait before a joiner."""
        for place, waiting in enumerate(self._waiting):
            if waiting == joiner:
                return place
        return len(self._waiting)

    def _expire(self, now: float) -> None:
        for joiner in [j for j, used_at in self._held.items() if now - used_at > IDLE_S]:
            del self._held[joiner]
        for joiner in [j for j, until in self._waiting.items() if now > until]:
            del self._waiting[joiner]
