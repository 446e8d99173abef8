"""One voter, and one leader's ballot: the tables, row by row, and both against each other."""

from hypothesis import given, settings
from hypothesis import strategies as st

from distqatd.averaging.ballots import (
    Accept,
    Accepted,
    Ballot,
    Learn,
    Prepare,
    Promised,
    Refused,
    StepKey,
    Value,
    Voter,
    electorate,
    make_electorate,
    react,
)
from distqatd.averaging.proposer import (
    Acceptance,
    Candidate,
    Promise,
    Proposer,
    Refusal,
    Stage,
    advance,
)

KEY = StepKey("tail", 3, "anchor")
IDS = tuple(f"tail.0.{index}.0@peer{index}" for index in range(7))
LOW, HIGH = Ballot(1, IDS[0]), Ballot(2, IDS[1])


def value(round_id: str = "r", members: tuple[str, ...] = IDS[:3]) -> Value:
    return Value(KEY, round_id, members, f"digest of {round_id}")


# --- a voter


def test_a_voter_promises_every_ballot_that_is_not_below_its_promise() -> None:
    promised = react(Voter(), Prepare(HIGH))
    assert promised.answer == Promised()
    assert react(promised.state, Prepare(HIGH)).answer == Promised()
    refused = react(promised.state, Prepare(LOW))
    assert refused.answer == Refused(HIGH)
    assert refused.state == promised.state


def test_a_promise_tells_what_was_accepted() -> None:
    accepted = react(Voter(), Accept(LOW, value()))
    assert accepted.answer == Accepted()
    assert react(accepted.state, Prepare(HIGH)).answer == Promised(LOW, value())


def test_a_voter_accepts_nothing_below_its_promise() -> None:
    state = react(Voter(), Prepare(HIGH)).state
    refused = react(state, Accept(LOW, value()))
    assert refused.answer == Refused(HIGH)
    assert refused.state.value is None
    assert react(state, Accept(HIGH, value("s"))).state.value == value("s")


def test_what_was_chosen_is_learned_but_not_over_a_higher_ballot() -> None:
    learned = react(react(Voter(), Prepare(HIGH)).state, Learn(LOW, value())).state
    assert learned == Voter(HIGH, LOW, value(), is_decided=True)
    higher = react(Voter(), Accept(HIGH, value("s"))).state
    assert react(higher, Learn(LOW, value())).state == higher


def test_equal_numbers_are_ordered_by_who_leads() -> None:
    assert Ballot(1, IDS[0]) < Ballot(1, IDS[1]) < Ballot(2, IDS[0])


# --- who decides


@given(st.lists(st.sampled_from([0, 1]), min_size=1, max_size=7))
def test_any_two_quorums_have_a_voter_in_common(side: list[int]) -> None:
    voters = frozenset(IDS[: len(side)])
    parts = [frozenset(v for v, s in zip(IDS, side, strict=False) if s == part) for part in (0, 1)]
    assert sum(make_electorate(KEY, voters).has_quorum(part) for part in parts) <= 1


def test_of_two_voters_the_leader_of_the_step_decides_alone() -> None:
    both = make_electorate(KEY, frozenset(IDS[:2]))
    other = next(voter for voter in IDS[:2] if voter != both.first)
    assert both.has_quorum(frozenset([both.first]))
    assert not both.has_quorum(frozenset([other]))


def test_voters_decide_until_the_records_of_most_have_lapsed() -> None:
    voters, joined = frozenset(IDS[:5]), frozenset(IDS[5:])
    assert electorate(KEY, voters, voters | joined).value.voters == voters
    assert electorate(KEY, voters, frozenset(IDS[2:])).value.voters == voters
    lapsed = electorate(KEY, voters, frozenset(IDS[3:]))
    assert lapsed.value.voters == frozenset(IDS[3:5])
    assert "records of 3 have lapsed" in lapsed.reason
    assert electorate(KEY, voters, joined).value.voters == joined
    assert electorate(KEY, frozenset(), joined).value.voters == joined


def test_a_peer_that_took_over_a_uid_is_another_voter() -> None:
    voters = frozenset(IDS[:3])
    thief = frozenset([IDS[0], "tail.0.1.0@other"])
    assert not make_electorate(KEY, voters).has_quorum(thief)


# --- a leader


def proposer(num: int = 3, roster: tuple[str, ...] = IDS) -> Proposer:
    return Proposer(HIGH, make_electorate(KEY, frozenset(IDS[:num])), frozenset(roster))


def after(state: Proposer, *events) -> Proposer:
    for event in events:
        state = advance(state, event)
    return state


def test_a_free_ballot_proposes_its_own_value_and_a_quorum_chooses_it() -> None:
    state = after(proposer(), Promise(IDS[0]), Candidate(value()))
    assert state.stage is Stage.PREPARING
    state = after(state, Promise(IDS[1]), Candidate(value()), Acceptance(IDS[2]))
    assert state.stage is Stage.PROPOSING
    state = after(state, Acceptance(IDS[2]), Acceptance(IDS[6]))
    assert state.stage is Stage.PROPOSING
    state = after(state, Acceptance(IDS[0]))
    assert state.chosen == Learn(HIGH, value())


def test_of_several_accepted_values_the_one_of_the_highest_ballot_is_finished() -> None:
    first = Promise(IDS[0], Ballot(1, IDS[0]), value("old"), holds=True)
    second = Promise(IDS[1], Ballot(1, IDS[1]), value("new"), holds=True)
    state = after(proposer(), first, second)
    assert (state.stage, state.value) == (Stage.PROPOSING, value("new"))


def test_a_value_is_given_up_only_when_nobody_can_hold_it() -> None:
    left = value("left", IDS[1:4])
    state = after(proposer(), Promise(IDS[0]), Promise(IDS[1], LOW, left))
    assert state.stage is Stage.BOUND
    assert state.missing() == (IDS[2], IDS[3])
    state = after(state, Promise(IDS[2]))
    assert state.stage is Stage.BOUND
    assert after(state, Promise(IDS[3], LOW, left, holds=True)).value == left
    state = after(state, Promise(IDS[3]))
    assert state.stage is Stage.FREE
    assert "nobody holds the data" in state.reason


def test_a_member_whose_record_has_lapsed_is_not_waited_for() -> None:
    left = value("left", IDS[1:4])
    state = after(
        proposer(roster=IDS[:3]), Promise(IDS[0]), Promise(IDS[1], LOW, left), Promise(IDS[2])
    )
    assert state.stage is Stage.FREE


def test_refused_and_learned_end_a_ballot() -> None:
    assert after(proposer(), Refusal(Ballot(9, IDS[2]))).stage is Stage.OUTBID
    known = Learn(Ballot(1, IDS[2]), value())
    assert after(proposer(), known).chosen == known
    assert after(proposer(), known, Refusal(Ballot(9, IDS[2]))).stage is Stage.CHOSEN


# --- both together


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 5), st.data())
def test_whatever_is_lost_or_comes_late_only_one_value_is_ever_chosen(
    num: int, data: st.DataObject
) -> None:
    """Leaders talk to voters in any order; any message may be lost; all values have holders."""
    voters = dict.fromkeys(IDS[:num], Voter())
    deciding = make_electorate(KEY, frozenset(voters))
    leaders: list[Proposer] = []
    chosen: set[Value] = set()
    for _ in range(data.draw(st.integers(1, 25))):
        at = data.draw(st.integers(0, len(leaders)))
        if at == len(leaders):
            ballot = Ballot(data.draw(st.integers(1, 9)), IDS[len(leaders) % num])
            if ballot not in [leader.ballot for leader in leaders]:
                leaders.append(Proposer(ballot, deciding, frozenset(voters)))
            continue
        leader, voter = leaders[at], data.draw(st.sampled_from(IDS[:num]))
        event = Prepare(leader.ballot)
        if leader.stage is Stage.FREE:
            leader = advance(leader, Candidate(value(f"{leader.ballot}")))
        if leader.stage is Stage.PROPOSING and leader.value is not None:
            event = Accept(leader.ballot, leader.value)
        reaction = react(voters[voter], event)
        voters[voter] = reaction.state
        answer = reaction.answer
        if data.draw(st.booleans()):
            if isinstance(answer, Promised) and isinstance(event, Prepare):
                leader = advance(
                    leader, Promise(voter, answer.accepted_in, answer.value, holds=True)
                )
            elif isinstance(answer, Accepted):
                leader = advance(leader, Acceptance(voter))
        leaders[at] = leader
        chosen |= {leader.chosen.value} if leader.chosen is not None else set()
    assert len(chosen) <= 1
