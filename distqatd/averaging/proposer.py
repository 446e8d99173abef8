"""A leader's half of the ballots: from promises to a value that is chosen. Pure.

    stage       event                                   next        meaning
    PREPARING   promises of a quorum, none accepted     FREE        its own value may be proposed
    PREPARING   promises of a quorum, some accepted     BOUND       that value must be finished
    BOUND       a member holds the data                 PROPOSING   the bound value
    BOUND       all that could hold the data do not     FREE        nobody can ever finish it
    FREE        candidate                               PROPOSING   our own value
    PROPOSING   accepted by a quorum                    CHOSEN      decided for ever
    any         refused                                 OUTBID      another leader has taken over
    any         learned from one who knows              CHOSEN

A value is data besides its name: the mean that its members hold in memory. One whose holders have
all restarted cannot be finished by anybody, so it is given up; but only when every member of it
and every voter whose record is there has promised, and none of them holds it or has applied it.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from distqatd.averaging.ballots import Ballot, Electorate, Learn, Value, VoterId


class Stage(enum.Enum):
    """Where a ballot is."""

    PREPARING = "preparing"
    BOUND = "bound"
    FREE = "free"
    PROPOSING = "proposing"
    CHOSEN = "chosen"
    OUTBID = "outbid"


@dataclass(frozen=True, slots=True)
class Promise:
    """What a voter said to Prepare; `holds` is whether it has the data of the value."""

    voter: VoterId
    accepted_in: Ballot | None = None
    value: Value | None = None
    holds: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """All members of the round hold the same mean."""

    value: Value


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A voter has accepted what was proposed."""

    voter: VoterId


@dataclass(frozen=True, slots=True)
class Refusal:
    """A voter has promised a higher ballot."""

    promised: Ballot


Event = Promise | Candidate | Acceptance | Refusal | Learn


@dataclass(frozen=True, slots=True)
class Proposer:
    """One ballot as its leader sees it.

    Attributes:
        ballot: its number.
        electorate: who decides.
        roster: who is there: of these, members of a value could still bring its data.
        stage: see the table.
        value: bound or proposed.
        chosen: what was chosen, and in which ballot.
        reason: why it is where it is.
        promises: by voter.
        accepted: who has accepted.
    """

    ballot: Ballot
    electorate: Electorate
    roster: frozenset[VoterId]
    stage: Stage = Stage.PREPARING
    value: Value | None = None
    chosen: Learn | None = None
    reason: str = "asking for promises"
    promises: Mapping[VoterId, Promise] = field(default_factory=dict)
    accepted: frozenset[VoterId] = frozenset()

    @property
    def is_over(self) -> bool:
        """Return whether nothing more can come of it."""
        return self.stage in (Stage.CHOSEN, Stage.OUTBID)

    def missing(self) -> tuple[VoterId, ...]:
        """Return who could hold the data of the bound value and has not said."""
        return tuple(sorted(self._possible_holders() - self.promises.keys()))

    def _possible_holders(self) -> frozenset[VoterId]:
        members = self.value.members if self.value is not None else ()
        return (self.electorate.voters | frozenset(members)) & self.roster


def advance(state: Proposer, event: Event) -> Proposer:
    """Return the ballot after an event; see the table above."""
    if state.is_over:
        return state
    match event:
        case Promise():
            state = _promised(replace(state, promises={**state.promises, event.voter: event}))
        case Candidate() if state.stage is Stage.FREE:
            state = _propose(state, event.value, "all members hold the same mean")
        case Acceptance():
            state = _accepted(replace(state, accepted=state.accepted | {event.voter}))
        case Refusal():
            text = f"outbid by ballot {event.promised}"
            state = replace(state, stage=Stage.OUTBID, reason=text)
        case Learn():
            text = f"{event.value.round_id} was committed already"
            state = replace(state, stage=Stage.CHOSEN, chosen=event, reason=text)
    return state


def _promised(state: Proposer) -> Proposer:
    if state.stage is Stage.PREPARING:
        state = _prepared(state)
    if state.stage is not Stage.BOUND or state.value is None:
        return state
    value = state.value
    if any(promise.holds and promise.value == value for promise in state.promises.values()):
        return _propose(state, value, f"finishes {value.round_id}, which was accepted before")
    if state.missing():
        return state
    text = f"nobody holds the data of {value.round_id} any more"
    return replace(state, stage=Stage.FREE, value=None, reason=text)


def _prepared(state: Proposer) -> Proposer:
    if not state.electorate.has_quorum(frozenset(state.promises)):
        return state
    known = [p for p in state.promises.values() if p.accepted_in is not None]
    if not known:
        return replace(state, stage=Stage.FREE, reason="nothing was accepted before")
    newest = max(known, key=lambda p: (p.accepted_in, p.holds))
    text = f"{newest.voter} had accepted {newest.value and newest.value.round_id}"
    return replace(state, stage=Stage.BOUND, value=newest.value, reason=text)


def _propose(state: Proposer, value: Value, reason: str) -> Proposer:
    return replace(state, stage=Stage.PROPOSING, value=value, reason=reason)


def _accepted(state: Proposer) -> Proposer:
    is_chosen = state.electorate.has_quorum(state.accepted)
    if state.stage is not Stage.PROPOSING or state.value is None or not is_chosen:
        return state
    num = len(state.accepted & state.electorate.voters)
    text = f"accepted by {num} of {len(state.electorate.voters)} voters"
    chosen = Learn(state.ballot, state.value)
    return replace(state, stage=Stage.CHOSEN, chosen=chosen, reason=text)
