"""An expert's place in averaging on its own daemon: what it is in, and how others compare to it."""

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from distqatd.averaging.ballots import Learn, StepKey
from distqatd.averaging.keeping import KeptMeans
from distqatd.averaging.leader import Leader
from distqatd.averaging.looking import Invitation
from distqatd.averaging.member import MemberRound
from distqatd.averaging.messages import AHEAD, BEHIND, COMING, DIVERGED
from distqatd.averaging.phases import Waiting
from distqatd.averaging.plan import MAX_PAST_NORMS
from distqatd.averaging.roster import Member
from distqatd.base.ids import ExpertUid

Roster = Callable[[], tuple[Member, ...]]
"""Returns the serving experts of a stage as they are known now, the local one included."""

OnOpen = Callable[[ExpertUid, int, float], None]
"""Told (uid, outer step, seconds left) when a round has opened that the expert should join.

The outer step is the one that the round is to make.
"""

Refresh = Callable[[], Awaitable[object]]
"""Has `Roster` know the stage as the swarm's records say now; may raise DistqatError."""

MAX_ROUNDS_LED = 4
"""Rounds one expert leads at a time; more mean that peers disagree wildly about the state."""

MAX_CHOSEN = 4


@dataclass(slots=True)
class Seat:
    """What the averager keeps for one attached expert.

    Attributes:
        uid: the expert.
        stage: name of its stage.
        roster: who else serves the stage.
        on_open: see OnOpen.
        refresh: see Refresh; None where the roster is always as new as it can be.
        active: the round it takes part in now.
        leading: rounds it leads, by round id.
        finished: outer step of the last anchor that a committed round has left behind.
        arrivals_s: of past rounds it led, for the adaptive grace.
        committed: last outer step taken here and who took it.
        norms: median length of the contributions in past rounds, where it was measured, by the
            fragment that they took.
        heard: the highest outer step a member said it has, who it was, and when.
        invitation: the last round that another leader opened.
        kept: means that were voted for here and may have been chosen.
        chosen: how the last steps were decided, as far as known here.
        outbid: ballot that others have promised above ours.
    """

    uid: ExpertUid
    stage: str
    roster: Roster
    on_open: OnOpen | None = None
    refresh: Refresh | None = None
    active: MemberRound | None = None
    leading: dict[str, Leader] = field(default_factory=dict)
    finished: int = -1
    arrivals_s: deque[float] = field(default_factory=lambda: deque(maxlen=64))
    committed: tuple[int, tuple[ExpertUid, ...]] = (-1, ())
    norms: dict[int | None, deque[float]] = field(default_factory=dict)
    heard: tuple[int, ExpertUid, float] | None = None
    invitation: Invitation | None = None
    kept: KeptMeans = field(default_factory=KeptMeans)
    chosen: OrderedDict[StepKey, Learn] = field(default_factory=OrderedDict)
    outbid: int = 0

    def learn(self, chosen: Learn) -> None:
        """Note how a step was decided, for those who ask."""
        self.chosen[chosen.value.key] = chosen
        while len(self.chosen) > MAX_CHOSEN:
            self.chosen.popitem(last=False)

    def measured(self, fragment: int | None, norm: float) -> None:
        """Note the median length of the contributions to a round of a fragment; None: of all."""
        self.norms.setdefault(fragment, deque(maxlen=MAX_PAST_NORMS)).append(norm)

    def invited(self, outer_step: int, anchor_digest: str, now: float) -> Invitation | None:
        """Return the open round of another leader that an expert with this anchor may join."""
        held = self.invitation
        if held is None or now >= held.until:
            return None
        same = (held.outer_step, held.anchor_digest) == (outer_step, anchor_digest)
        return held if same else None

    async def look(self) -> tuple[Member, ...]:
        """Return the roster, read anew."""
        if self.refresh is not None:
            await self.refresh()
        return self.roster()

    def hear(self, uid: ExpertUid, outer_step: int, now: float) -> None:
        """Note the outer step that a member says it has reached."""
        if self.heard is None or outer_step >= self.heard[0]:
            self.heard = (outer_step, uid, now)

    def newest(self, now: float, max_age_s: float) -> tuple[int, ExpertUid]:
        """Return the highest outer step in the stage and who has it.

        What was heard counts for `max_age_s` and while its source is in the roster: a replica that
        took a step alone and is gone must not hold up the others for ever.
        """
        roster = self.roster()
        known = [(member.outer_step, member.uid) for member in roster] or [(-1, self.uid)]
        if self.heard is not None and now - self.heard[2] < max_age_s:
            step, uid, _ = self.heard
            known += [(step, uid) for member in roster if member.uid == uid]
        return max(known)

    def position(self) -> tuple[int, str]:
        """Return our outer step and anchor digest; after a commit the digest is "" until applied.

        The round that we are in knows best, then the last commit, then the roster.
        """
        if self.active is not None:
            return self.active.ready.outer_step, self.active.ready.anchor_digest
        own = next((m for m in self.roster() if m.uid == self.uid), None)
        if own is None or own.outer_step <= self.finished:
            return self.finished + 1, ""
        return own.outer_step, own.anchor_digest

    def compare(self, outer_step: int, anchor_digest: str) -> tuple[str, int]:
        """Return how we stand to a round over this anchor, and our outer step."""
        step, digest = self.position()
        if step != outer_step:
            return (AHEAD if step > outer_step else BEHIND), step
        # Committed but not applied yet: which anchor it will be is not known, only that we come.
        if digest not in ("", anchor_digest):
            return DIVERGED, step
        return COMING, step


def with_progress(seat: Seat, led: Leader) -> Waiting:
    """Describe a round that an expert leads, with how far its own part in the exchange is."""
    wait, active = led.waiting(), seat.active
    if active is None or active.plan is None or active.plan.round_id != wait.round_id:
        return wait
    return replace(wait, progress=active.progress)
