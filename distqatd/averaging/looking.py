"""How a member looks for the leader of its round: whom it asks, in which order."""

import enum
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from distqatd.averaging.roster import leader_order
from distqatd.base.ids import ExpertUid, PeerId

MAX_REDIRECTS = 3


class Stand(enum.Enum):
    """Where a member is: before its vote it may leave at any time, after it is bound."""

    LOOKING = "looking for a leader"
    WAITING = "waiting for the plan"
    EXCHANGING = "exchanging"
    VOTED = "voted"


@dataclass(frozen=True, slots=True)
class Invitation:
    """A leader has opened a round over an anchor; it is good until the round closes."""

    outer_step: int
    anchor_digest: str
    leader: ExpertUid
    peer_id: PeerId
    until: float


@dataclass(frozen=True, slots=True)
class Places:
    """Where the experts of a stage are, and to which of them nobody can connect."""

    peers: Mapping[ExpertUid, PeerId]
    callers: frozenset[ExpertUid] = frozenset()

    def order(self, stage: str, outer_step: int, shunned: Collection[ExpertUid]) -> list[ExpertUid]:
        """Return who is asked to lead, one after the other.

        Members would have to wait until one in client mode has called them, so these come behind
        all others, and last who was lost a moment ago.
        """
        by_hash = leader_order(stage, outer_step, self.peers)
        return sorted(by_hash, key=lambda uid: (uid in shunned, uid in self.callers))


class Candidates:
    """Who is asked to lead: rounds that are open already come before the order by hash.

    Replicas that see different rosters for a moment find different leaders by hash. If each of
    them opened a round, every member would sit in one and be missed in the other. So a member
    goes where a round is open, and one that is in a round sends others there.
    """

    def __init__(self, opened: Sequence[ExpertUid], order: Sequence[ExpertUid]) -> None:
        self._queue = deque(dict.fromkeys([*opened, *order]))
        self._num_redirects = 0

    def next(self) -> ExpertUid | None:
        """Return whom to ask now; None if nobody is left."""
        return self._queue.popleft() if self._queue else None

    def redirect(self, via: ExpertUid, to: ExpertUid) -> None:
        """Ask `to` next, as `via` said, and `via` again if that fails; only a few times."""
        if self._num_redirects >= MAX_REDIRECTS:
            return
        self._num_redirects += 1
        rest = [uid for uid in self._queue if uid not in (to, via)]
        self._queue = deque([to, via, *rest])
