"""A leader's round as a state machine: no I/O, no clock; who drives it passes `now`.

    phase      what happens                                           next
    GATHERING  all ready or grace over, with a quorum: plan made      REDUCING
    GATHERING  grace over without one; the stage is ahead             DECIDED, not committed
    REDUCING   all members hold one mean, and the ballot is free      ACCEPTING it
    REDUCING   a promise tells of a value that was accepted before    ACCEPTING that one
    REDUCING   fault, loss, outbid, deadline                          DECIDED, not committed
    ACCEPTING  accepted by a quorum of the voters                     DECIDED, committed
    ACCEPTING  outbid, no quorum left, deadline                       DECIDED, not known

What decides is the ballot, see `proposer` and `ballots`: once a quorum has accepted a value it
stays chosen whoever dies, and any later round over the same anchor finds it and finishes it. "Not
committed" is therefore said of this ballot only. While nothing was proposed in it, nothing of it
can be chosen; a ballot that ends in ACCEPTING may have chosen its value, and the next one knows.
"""

from collections.abc import Collection, Mapping, Sequence

from distqatd.averaging.ballots import Ballot, Electorate, Learn, Value, VoterId, voter_id
from distqatd.averaging.ballots import electorate as find_electorate
from distqatd.averaging.messages import Ready, Verdict, Vote
from distqatd.averaging.phases import Phase, Waiting
from distqatd.averaging.plan import Plan, Terms, make_plan
from distqatd.averaging.proposer import Candidate, Event, Proposer, Stage, advance
from distqatd.averaging.roster import MAX_MEMBERS, Member, share_holds
from distqatd.base.decision import Decision
from distqatd.base.errors import Overloaded, RemoteProtocolError, RoundAborted
from distqatd.base.ids import ExpertUid, PeerId


class LeaderRound:
    """One attempt at an outer step, as its leader sees it.

    Feed it what happens (`ready`, `excuse`, `vote`, `lost`, `fail`, `hear`) and call `advance(now)`
    after each, and at `wake_at`: it moves the phase on when it is time. Times are loop seconds.

    Attributes:
        phase: where it is.
        plan: the closed round, from REDUCING on unless it was aborted before.
        ballot: its ballot as we see it, once `begin` was called in REDUCING.
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
        self.key = first.key
        self.num_elements = first.num_elements
        self.phase = Phase.GATHERING
        self.plan: Plan | None = None
        self.verdict: Verdict | None = None
        self.arrivals_s: list[float] = []
        self.ballot: Proposer | None = None
        self._voters = frozenset(first.voters)
        self._terms = terms
        self._opened_at = now
        self._roster: dict[ExpertUid, PeerId] = {m.uid: m.peer_id for m in roster}
        self._callers = {m.uid for m in roster if not m.is_dialable}
        self._ready: dict[ExpertUid, tuple[Ready, PeerId]] = {}
        self._excused: dict[ExpertUid, str] = {}
        self._behind: set[ExpertUid] = set()
        self._gone: set[ExpertUid] = set()
        self._deaf: set[VoterId] = set()
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
        One in client mode that cannot be reached may call us any moment.
        """
        if uid in self._ready or uid not in self._roster or (gone and uid in self._callers):
            return
        self._excused[uid] = reason
        if gone:
            self._gone.add(uid)
        if behind:
            self._behind.add(uid)

    def overtaken(self, uid: ExpertUid, outer_step: int, chosen: Learn | None = None) -> None:
        """End: `uid` has this outer step behind it; `chosen` is how it was taken, if it knows."""
        if chosen is not None and chosen.value.key == self.key:
            self._commit(chosen, f"{uid} has taken this step")
            return
        step = self.outer_step
        self._abort(f"{uid} is at outer step {outer_step} already; members at {step} are behind")

    def begin(self, ballot: Ballot) -> None:
        """Take the number of our ballot, after the round has closed."""
        here = self._voter_ids(self._roster.items())
        self.ballot = Proposer(ballot, self._electorate().value, here)

    def hear(self, event: Event) -> None:
        """Take what a voter answered."""
        if self.ballot is not None and self.phase in (Phase.REDUCING, Phase.ACCEPTING):
            self.ballot = advance(self.ballot, event)

    def deaf(self, uid: ExpertUid, peer_id: PeerId) -> None:
        """Take note that a voter outside of the plan cannot be asked."""
        self._deaf.add(voter_id(uid, peer_id))

    def unheard(self) -> dict[ExpertUid, PeerId]:
        """Return the experts outside of the plan that may hold what the ballot is bound to."""
        if self.ballot is None or self.ballot.stage is not Stage.BOUND or self.plan is None:
            return {}
        outside = [(u, p) for u, p in self._roster.items() if u not in self.plan.uids]
        missing = self.ballot.missing()
        return {uid: peer for uid, peer in outside if voter_id(uid, peer) in missing}

    def vote(self, vote: Vote, peer_id: PeerId) -> None:
        """Take a member's vote; the first one counts.

        Raises:
            RemoteProtocolError: it is not a member of the plan, or another peer's.
        """
        if self.plan is None or self.plan.peer_of(vote.uid) != peer_id:
            raise RemoteProtocolError(f"{vote.uid} has no vote in round {self.round_id}")
        if not vote.digest:
            blamed = ", ".join(vote.blamed) or vote.uid
            self._abort(f"{blamed} failed: {vote.reason} (says {vote.uid})", again=True)
        else:
            self._votes.setdefault(vote.uid, vote.digest)

    def lost(self, peer_id: PeerId, reason: str) -> None:
        """Take note that a peer is gone: it is not waited for; what needs its mean is over."""
        for uid in [u for u, p in self._roster.items() if p == peer_id]:
            if self.phase is Phase.GATHERING:
                self._ready.pop(uid, None)
                self._callers.discard(uid)
                self.excuse(uid, reason, gone=True)
            elif self.phase is Phase.REDUCING and self._owes_vote(uid):
                self.fail(uid, reason)

    def fail(self, uid: ExpertUid, reason: str) -> None:
        """End this ballot because of a member; the others may go on without it."""
        if self.phase is not Phase.ACCEPTING:
            self._abort(f"{uid} was lost: {reason}", again=True)

    def give_up(self, reason: str) -> None:
        """End this ballot: no more answers will come."""
        self._abort(reason, again=True)

    def advance(self, now: float) -> None:
        """Move on to the next phase if it is time."""
        if self.phase is Phase.GATHERING:
            self._close(now)
        elif self.phase is not Phase.DECIDED and self.ballot is not None:
            self._decide(self.ballot, now)

    def _owes_vote(self, uid: ExpertUid) -> bool:
        return self.plan is not None and uid in self.plan.uids and uid not in self._votes

    def _waited_for(self) -> tuple[ExpertUid, ...]:
        if self.phase is Phase.REDUCING and self.plan is not None:
            return tuple(uid for uid in self.plan.uids if uid not in self._votes)
        return tuple(sorted(self.strangers().keys() - self._excused.keys()))

    def _close(self, now: float) -> None:
        is_late = now >= self.closes_at
        if self._waited_for() and not is_late:
            return
        quorum = self._quorum()
        is_hopeless = self.strangers().keys() <= self._gone | self._behind
        if not quorum.value and (is_late or is_hopeless):
            self._abort(f"no quorum: {quorum.reason}; missing {self._absences()}")
        elif quorum.value and not any(ready.samples for ready, _ in self._ready.values()):
            self._abort("nothing to average: no member has trained since the anchor")
        elif quorum.value:
            entries = [self._ready[uid] for uid in self.ready_uids]
            self.plan = make_plan(self.round_id, entries, self._terms)
            self.phase = Phase.REDUCING

    def _quorum(self) -> Decision[bool]:
        """Decide whether those who are ready may take the step: by their share, and as voters."""
        here = self._roster.keys() - self._behind
        share = share_holds(self._ready, here, self._terms.quorum)
        deciding = self._electorate()
        ready = self._voter_ids(self.ready_members().items())
        if not share.value or deciding.value.has_quorum(ready):
            return share
        first = deciding.value.first.partition("@")[0]
        need = f"more than half of {deciding.reason} is needed (half with {first})"
        return Decision(value=False, reason=f"{share.reason}, and {need}")

    def _electorate(self) -> Decision[Electorate]:
        """Decide who decides; before the first step of a run those who are behind have no say."""
        behind = frozenset() if self._voters else self._behind
        roster = {u: p for u, p in self._roster.items() if u not in behind} or self._roster
        return find_electorate(self.key, self._voters, self._voter_ids(roster.items()))

    @staticmethod
    def _voter_ids(members: Collection[tuple[ExpertUid, PeerId]]) -> frozenset[VoterId]:
        return frozenset(voter_id(uid, peer) for uid, peer in members)

    def _decide(self, ballot: Proposer, now: float) -> None:
        if ballot.chosen is not None:
            self._commit(ballot.chosen, ballot.reason)
        elif ballot.stage is Stage.OUTBID:
            self._abort(ballot.reason, again=True)
        elif ballot.stage is Stage.PROPOSING:
            self.phase = Phase.ACCEPTING
        elif ballot.stage is Stage.BOUND and self._deaf.issuperset(ballot.missing()):
            self._abort(f"{ballot.reason}, and {', '.join(ballot.missing())} cannot be asked")
        elif self.phase is Phase.REDUCING:
            self._count_votes(ballot)
        if self.phase is not Phase.DECIDED and now >= self.decide_by:
            self._abort(self._lateness(), again=True)

    def _count_votes(self, ballot: Proposer) -> None:
        plan, digests = self.plan, set(self._votes.values())
        if len(digests) > 1:
            self._abort(f"members hold different means: {_by_digest(self._votes)}")
        elif plan is not None and len(self._votes) == len(plan.uids):
            members = self._voter_ids([(m.uid, m.peer_id) for m in plan.members])
            value = Value(self.key, self.round_id, tuple(sorted(members)), digests.pop())
            self.ballot = advance(ballot, Candidate(value))
            if self.ballot.stage is Stage.PROPOSING:
                self.phase = Phase.ACCEPTING

    def _lateness(self) -> str:
        if self.phase is Phase.REDUCING and (late := self._waited_for()):
            return f"no vote from {', '.join(late)} before the deadline"
        ballot = self.ballot
        unheard = ", ".join(ballot.missing()) if ballot is not None else ""
        doing = ballot.reason if ballot is not None else "no ballot"
        return f"no decision before the deadline: {doing}; not heard of {unheard or 'a quorum'}"

    def _commit(self, chosen: Learn, reason: str) -> None:
        missing = self._missing()
        who = f"{len(chosen.value.members)} of {len(self._roster)} members, {reason}"
        text = f"{who}, missing {self._absences()}" if missing else who
        self._end(Verdict(self.round_id, text, missing, chosen))

    def _abort(self, reason: str, *, again: bool = False) -> None:
        if self.phase is not Phase.DECIDED:
            self._end(Verdict(self.round_id, reason, self._missing(), again=again))

    def _end(self, verdict: Verdict) -> None:
        if self.phase is not Phase.DECIDED:
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
