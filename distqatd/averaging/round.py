"""A leader's round as a state machine: no I/O, no clock; who drives it passes `now`.

    GATHERING --(all ready or grace over, quorum)--> REDUCING --(all hold one digest)--> DECIDED
        |  (grace over, no quorum; stage is ahead)       |  (fault, loss, deadline)          ^
        +------------------------------------------------+-----------------------------------+

Two-phase commit with the leader as coordinator. It is safe while the leader lives: it commits
only if every member of the plan has voted for the same digest, a member votes once and not after
it has given up, and each vote binds its member until the verdict or the deadline. One window is
open: the leader decides to commit, tells some members or none, and dies or is cut off until the
deadline of the others, none of whom can be reached by one who knows. These then give up a step
that the leader, and maybe a few, have taken. They find out by outer step or digest and the
minority re-syncs, so replicas never stay different unnoticed, but work can be lost. Ballots with
promises on disk close this window in a later version.
"""

import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from distqatd.averaging.messages import Ready, Verdict, Vote, aborted
from distqatd.averaging.plan import Plan, Terms, make_plan
from distqatd.averaging.roster import MAX_MEMBERS, Member, leader_order, quorum_holds
from distqatd.base.errors import Overloaded, RemoteProtocolError, RoundAborted
from distqatd.base.ids import ExpertUid, PeerId


class Phase(enum.Enum):
    """Where a round is."""

    GATHERING = "gathering"
    REDUCING = "reducing"
    DECIDED = "decided"


@dataclass(frozen=True, slots=True)
class Waiting:
    """Whom an open round waits for, for people to look at while it lasts."""

    round_id: str
    stage: str
    outer_step: int
    phase: str
    ready: tuple[ExpertUid, ...]
    waiting_for: tuple[ExpertUid, ...]
    seconds_left: float


class LeaderRound:
    """One attempt at an outer step, as its leader sees it.

    Feed it what happens (`ready`, `excuse`, `vote`, `lost`, `fail`) and call `advance(now)` after
    each, and at `wake_at`: it moves the phase on when it is time. Times are loop seconds.

    Attributes:
        phase: where it is.
        plan: the closed round, from REDUCING on unless it was aborted before.
        verdict: how it ended, in DECIDED.
        arrivals_s: seconds from opening to each member's READY after the first.
    """

    def __init__(
        self,
        round_id: str,
        first: Ready,
        roster: Sequence[Member],
        terms: Terms,
        now: float,
    ) -> None:
        self.round_id = round_id
        self.stage = first.stage
        self.outer_step = first.outer_step
        self.anchor_digest = first.anchor_digest
        self.num_elements = first.num_elements
        self.phase = Phase.GATHERING
        self.plan: Plan | None = None
        self.verdict: Verdict | None = None
        self.arrivals_s: list[float] = []
        self._terms = terms
        self._opened_at = now
        self._roster: dict[ExpertUid, PeerId] = {m.uid: m.peer_id for m in roster}
        self._ready: dict[ExpertUid, tuple[Ready, PeerId]] = {}
        self._excused: dict[ExpertUid, str] = {}
        self._behind: set[ExpertUid] = set()
        self._gone: set[ExpertUid] = set()
        self._votes: dict[ExpertUid, str] = {}

    @property
    def closes_at(self) -> float:
        """Return when it closes at the latest."""
        return self._opened_at + self._terms.grace_s

    @property
    def decide_by(self) -> float:
        """Return when it is aborted at the latest, a margin before the members' deadline."""
        return self.deadline - 2 * self._terms.margin_s

    @property
    def deadline(self) -> float:
        """Return when members stop waiting for the verdict."""
        return self._opened_at + self._terms.timeout_s

    @property
    def wake_at(self) -> float:
        """Return when `advance` must be called next if nothing happens before."""
        return self.closes_at if self.phase is Phase.GATHERING else self.decide_by

    @property
    def ready_uids(self) -> tuple[ExpertUid, ...]:
        """Return who is ready, sorted."""
        return tuple(sorted(self._ready))

    def ready_members(self) -> dict[ExpertUid, PeerId]:
        """Return who is ready, and where."""
        return {uid: peer for uid, (_, peer) in self._ready.items()}

    def strangers(self) -> dict[ExpertUid, PeerId]:
        """Return the members of the roster that are not ready."""
        return {u: p for u, p in self._roster.items() if u not in self._ready}

    def waiting(self, now: float) -> Waiting:
        """Describe the round for `distqatctl`."""
        left_s = max(0.0, self.wake_at - now)
        return Waiting(
            self.round_id,
            self.stage,
            self.outer_step,
            self.phase.value,
            self.ready_uids,
            self._waited_for(),
            left_s,
        )

    def enroll(self, members: Sequence[Member]) -> None:
        """Count members in that were not known when the round was opened."""
        for member in members:
            self._roster.setdefault(member.uid, member.peer_id)

    def ready(self, entry: Ready, peer_id: PeerId, now: float) -> None:
        """Take a member in; a second READY of the same member replaces its first.

        Raises:
            RoundAborted: the round has closed, or the member has another layout or anchor.
            Overloaded: it has MAX_MEMBERS members.
            RemoteProtocolError: another peer is ready under this uid.
        """
        if self.phase is not Phase.GATHERING:
            raise RoundAborted(f"round {self.round_id} closed without {entry.uid}")
        if entry.num_elements != self.num_elements or entry.anchor_digest != self.anchor_digest:
            size = f"{entry.num_elements} elements, this round has {self.num_elements}"
            raise RoundAborted(f"{entry.uid} has another layout or anchor: {size}")
        known = self._ready.get(entry.uid)
        if known is not None and known[1] != peer_id:
            raise RemoteProtocolError(f"{entry.uid} is ready on peer {known[1]} already")
        if known is None and len(self._ready) >= MAX_MEMBERS:
            raise Overloaded(f"round {self.round_id} has {MAX_MEMBERS} members")
        if known is None and self._ready:
            self.arrivals_s.append(now - self._opened_at)
        self._ready[entry.uid] = (entry, peer_id)
        self._roster[entry.uid] = peer_id
        self._excused.pop(entry.uid, None)
        self._behind.discard(entry.uid)
        self._gone.discard(entry.uid)

    def excuse(
        self, uid: ExpertUid, reason: str, *, behind: bool = False, gone: bool = False
    ) -> None:
        """Do not wait for a member; it may still come.

        One that is `behind` has no say either. A round that only those could complete who are
        `gone` is given up at once: a moment of training is worth more than waiting for the dead.
        """
        if uid in self._ready or uid not in self._roster:
            return
        self._excused[uid] = reason
        if gone:
            self._gone.add(uid)
        if behind:
            self._behind.add(uid)

    def overtaken(self, uid: ExpertUid, outer_step: int) -> None:
        """Abort: `uid` has this outer step behind it, so it has been taken without us."""
        step = self.outer_step
        self._abort(f"{uid} is at outer step {outer_step} already; members at {step} are behind")

    def vote(self, vote: Vote, peer_id: PeerId) -> None:
        """Take a member's vote; the first one counts.

        Raises:
            RemoteProtocolError: it is not a member of the plan, or another peer's.
        """
        if self.plan is None or self.plan.peer_of(vote.uid) != peer_id:
            raise RemoteProtocolError(f"{vote.uid} has no vote in round {self.round_id}")
        if not vote.digest:
            blamed = ", ".join(vote.blamed) or vote.uid
            self._abort(f"{blamed} failed: {vote.reason} (says {vote.uid})")
        else:
            self._votes.setdefault(vote.uid, vote.digest)

    def lost(self, peer_id: PeerId, reason: str) -> None:
        """Take note that a peer is gone: its members are not waited for, its rounds abort."""
        for uid in [u for u, p in self._roster.items() if p == peer_id]:
            if self.phase is Phase.GATHERING:
                self._ready.pop(uid, None)
                self.excuse(uid, reason, gone=True)
            elif self.plan is not None and uid in self.plan.uids and uid not in self._votes:
                self.fail(uid, reason)

    def fail(self, uid: ExpertUid, reason: str) -> None:
        """Abort because of a member."""
        self._abort(f"{uid} was lost: {reason}")

    def withdraw(self, reason: str) -> None:
        """Abort because we, the leader, cannot go on."""
        self._abort(reason)

    def advance(self, now: float) -> None:
        """Move on to the next phase if it is time."""
        if self.phase is Phase.GATHERING:
            self._close(now)
        elif self.phase is Phase.REDUCING:
            self._decide(now)

    def _waited_for(self) -> tuple[ExpertUid, ...]:
        if self.phase is Phase.REDUCING and self.plan is not None:
            return tuple(uid for uid in self.plan.uids if uid not in self._votes)
        return tuple(sorted(self.strangers().keys() - self._excused.keys()))

    def _close(self, now: float) -> None:
        is_late = now >= self.closes_at
        if self._waited_for() and not is_late:
            return
        electorate = self._roster.keys() - self._behind
        first = leader_order(self.stage, self.outer_step, electorate)[0]
        quorum = quorum_holds(self._ready, electorate, first, self._terms.quorum)
        is_hopeless = self.strangers().keys() <= self._gone | self._behind
        if not quorum.value and (is_late or is_hopeless):
            self._abort(f"no quorum: {quorum.reason}; missing {self._absences()}")
        elif quorum.value and not any(ready.samples for ready, _ in self._ready.values()):
            self._abort("nothing to average: no member has trained since the anchor")
        elif quorum.value:
            entries = [self._ready[uid] for uid in self.ready_uids]
            self.plan = make_plan(self.round_id, entries, self._terms)
            self.phase = Phase.REDUCING

    def _decide(self, now: float) -> None:
        plan = self.plan
        if plan is None:
            return
        digests = {self._votes[uid] for uid in plan.uids if uid in self._votes}
        if len(digests) > 1:
            self._abort(f"members hold different means: {_by_digest(self._votes)}")
        elif len(self._votes) == len(plan.uids):
            who = f"{len(plan.uids)} of {len(self._roster)}"
            missing = self._missing()
            text = f"{who} members, missing {self._absences()}" if missing else f"{who} members"
            round_id, held = self.round_id, digests.pop()
            self._end(Verdict(round_id, committed=True, reason=text, digest=held, missing=missing))
        elif now >= self.decide_by:
            self._abort(f"no vote from {', '.join(self._waited_for())} before the deadline")

    def _abort(self, reason: str) -> None:
        if self.phase is not Phase.DECIDED:
            self._end(aborted(self.round_id, reason, self._missing()))

    def _end(self, verdict: Verdict) -> None:
        self.phase = Phase.DECIDED
        self.verdict = verdict

    def _missing(self) -> tuple[ExpertUid, ...]:
        return tuple(sorted(self.strangers()))

    def _absences(self) -> str:
        reasons = {uid: self._excused.get(uid, "not ready") for uid in self._missing()}
        return ", ".join(f"{uid} ({reason})" for uid, reason in reasons.items()) or "nobody"


def _by_digest(votes: Mapping[ExpertUid, str]) -> str:
    holders: dict[str, Collection[str]] = {}
    for uid, digest in sorted(votes.items()):
        holders[digest] = [*holders.get(digest, ()), uid]
    return "; ".join(f"{digest[:12]}: {', '.join(uids)}" for digest, uids in holders.items())
