"""What a voter has promised and accepted for one outer step: its half of the ballots. Pure.

Single-decree Paxos [source: Lamport, Paxos Made Simple, 2001] for each outer step over one anchor.
What is decided is a `Value`; who decides are the members of the outer step before. A voter keeps
one `Voter` state for each step, on disk, and writes every change before it answers.

    event             when                            new state               answer
    Prepare(b)        b >= promised                   promised b              Promised(accepted)
    Prepare(b)        b <  promised                   -                       Refused(promised)
    Accept(b, v)      b >= promised                   promised b, accepted v  Accepted
    Accept(b, v)      b <  promised                   -                       Refused(promised)
    Learn(b, v)       nothing accepted above b        accepted v, decided     Accepted
    Learn(b, v)       accepted above b                -                       Accepted
"""

from dataclasses import dataclass, replace

from distqatd.averaging.roster import leader_order
from distqatd.base.decision import Decision
from distqatd.base.ids import ExpertUid, PeerId

VoterId = str
"""`uid@peer id`: another peer that takes over a uid has not promised what the first one did."""


def voter_id(uid: ExpertUid, peer_id: PeerId) -> VoterId:
    """Return the name under which an expert on a peer votes."""
    return f"{uid}@{peer_id}"


@dataclass(frozen=True, slots=True, order=True)
class Ballot:
    """The number of an attempt at an outer step; who leads it breaks ties. A fencing epoch."""

    number: int
    leader: VoterId

    def __str__(self) -> str:
        """Return it for people."""
        return f"{self.number} of {self.leader.partition('@')[0]}"


@dataclass(frozen=True, slots=True, order=True)
class StepKey:
    """Which decision is meant: the outer step over one anchor of a stage."""

    stage: str
    outer_step: int
    anchor_digest: str


@dataclass(frozen=True, slots=True)
class Value:
    """An outer step that may be decided: who took part, and what they hold.

    Attributes:
        key: the step.
        round_id: the round in which the mean was made.
        members: those of that round, sorted; they are the voters of the next step.
        digest: of the mean that all of them hold.
    """

    key: StepKey
    round_id: str
    members: tuple[VoterId, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class Voter:
    """The state of one voter for one step; the default is that of one which was never asked."""

    promised: Ballot | None = None
    accepted_in: Ballot | None = None
    value: Value | None = None
    is_decided: bool = False


@dataclass(frozen=True, slots=True)
class Prepare:
    """A leader asks for a promise: nothing below this ballot, and what was accepted so far."""

    ballot: Ballot


@dataclass(frozen=True, slots=True)
class Accept:
    """A leader asks to accept a value."""

    ballot: Ballot
    value: Value


@dataclass(frozen=True, slots=True)
class Learn:
    """A value was chosen in this ballot."""

    ballot: Ballot
    value: Value


Event = Prepare | Accept | Learn


@dataclass(frozen=True, slots=True)
class Promised:
    """The promise, with the value that was accepted in the highest ballot so far, if any."""

    accepted_in: Ballot | None = None
    value: Value | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The value is accepted."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A higher ballot was promised."""

    promised: Ballot


Answer = Promised | Accepted | Refused


@dataclass(frozen=True, slots=True)
class Reaction:
    """What an event leads to; `state` must be on disk before the answer leaves if it changed."""

    state: Voter
    answer: Answer
    reason: str


def react(state: Voter, event: Event) -> Reaction:
    """Return what a voter does; see the table above."""
    if isinstance(event, Learn):
        return _learn(state, event)
    if state.promised is not None and event.ballot < state.promised:
        text = f"ballot {event.ballot} is below the promised {state.promised}"
        return Reaction(state, Refused(state.promised), text)
    if isinstance(event, Prepare):
        promise = Promised(state.accepted_in, state.value)
        return Reaction(replace(state, promised=event.ballot), promise, f"promised {event.ballot}")
    accepted = Voter(event.ballot, event.ballot, event.value)
    if state.value == event.value:
        accepted = replace(accepted, is_decided=state.is_decided)
    return Reaction(accepted, Accepted(), f"accepted {event.value.round_id} in {event.ballot}")


def _learn(state: Voter, event: Learn) -> Reaction:
    if state.accepted_in is not None and event.ballot < state.accepted_in:
        return Reaction(state, Accepted(), f"accepted in {state.accepted_in} already")
    promised = max(state.promised or event.ballot, event.ballot)
    learned = Voter(promised, event.ballot, event.value, is_decided=True)
    return Reaction(learned, Accepted(), f"learned {event.value.round_id}")


@dataclass(frozen=True, slots=True)
class Electorate:
    """Who decides a step. Half of them is enough with `first`, the leader by hash.

    Any two quorums have a voter in common, which is what makes ballots safe. For two voters the
    leader alone is a quorum and the other one is not: the leader holds the lease of the step, the
    ballot is its fencing epoch, and the other one takes over when the leader's record has lapsed.
    """

    voters: frozenset[VoterId]
    first: VoterId

    def has_quorum(self, votes: frozenset[VoterId]) -> bool:
        """Return whether these decide."""
        num = 2 * len(votes & self.voters)
        return num > len(self.voters) or (num == len(self.voters) and self.first in votes)


def make_electorate(key: StepKey, voters: frozenset[VoterId]) -> Electorate:
    """Return the electorate of these voters, at least one."""
    by_uid = {ExpertUid(voter.partition("@")[0]): voter for voter in sorted(voters)}
    return Electorate(voters, by_uid[leader_order(key.stage, key.outer_step, by_uid)[0]])


def electorate(
    key: StepKey, voters: frozenset[VoterId], roster: frozenset[VoterId]
) -> Decision[Electorate]:
    """Decide who decides a step.

    Args:
        key: the step.
        voters: members of the outer step before, as the anchor says; none before the first.
        roster: who serves the stage now, as the swarm's records say; at least one.

    The voters decide as long as the records of a quorum of them are there. Records last for some
    time after their publisher fell silent, so a part of the voters that is cut off waits that
    long for the others; if most of them have died, the rest goes on then.
    """
    if not voters:
        return Decision(make_electorate(key, roster), "the first step of a run: the roster")
    full = make_electorate(key, voters)
    present = voters & roster
    if full.has_quorum(present):
        return Decision(full, f"the {len(voters)} members of the step before")
    if present:
        gone = len(voters) - len(present)
        text = f"{len(present)} of {len(voters)} voters: the records of {gone} have lapsed"
        return Decision(make_electorate(key, present), text)
    return Decision(make_electorate(key, roster), "the roster: the records of all voters lapsed")
