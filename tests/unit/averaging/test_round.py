"""The leader's state machine, event by event, without a loop."""

import pytest

from distqatd.averaging.ballots import Ballot, Learn, Value, voter_id
from distqatd.averaging.messages import Ready, Vote
from distqatd.averaging.phases import Phase
from distqatd.averaging.plan import Terms
from distqatd.averaging.proposer import Acceptance, Promise, Refusal, Stage
from distqatd.averaging.roster import Member, leader_order
from distqatd.averaging.round import LeaderRound
from distqatd.base.errors import RemoteProtocolError, RoundAborted
from distqatd.base.ids import PeerId, make_uid

UIDS = [make_uid("tail", index) for index in range(4)]
TERMS = Terms(timeout_s=60.0, grace_s=20.0, quorum=0.5, codec="fp32")


def peer(index: int) -> PeerId:
    return PeerId(f"peer{index}")


VOTERS = tuple(sorted(voter_id(uid, peer(index)) for index, uid in enumerate(UIDS)))


def ready(index: int, samples: int = 1, size: int = 100, anchor: str = "a", voters=()) -> Ready:
    return Ready(UIDS[index], "tail", 3, anchor, samples, size, 0.0, {}, voters=voters)


def opened(num: int = 3, **terms: float) -> LeaderRound:
    roster = [Member(UIDS[i], peer(i), 3, "a") for i in range(num)]
    round_ = LeaderRound("r", ready(0), roster, Terms(**{**vars_of(TERMS), **terms}), now=100.0)
    round_.ready(ready(0), peer(0), 100.0)
    return round_


def vars_of(terms: Terms) -> dict:
    return {name: getattr(terms, name) for name in ("timeout_s", "grace_s", "quorum", "codec")}


def closed(num: int = 3) -> LeaderRound:
    """A round that has closed, and all its members have promised."""
    round_ = asking(num)
    for index in range(num):
        round_.hear(Promise(VOTERS[index]))
    return round_


def asking(num: int = 3) -> LeaderRound:
    round_ = opened(num)
    for index in range(1, num):
        round_.ready(ready(index), peer(index), 101.0 + index)
    round_.advance(105.0)
    assert round_.phase is Phase.REDUCING
    round_.begin(Ballot(1, VOTERS[0]))
    return round_


def voted(num: int = 3) -> LeaderRound:
    """A round whose members hold the same mean: it waits until they have accepted it."""
    round_ = closed(num)
    for index in range(num):
        round_.vote(Vote("r", UIDS[index], "d"), peer(index))
    round_.advance(106.0)
    assert round_.phase is Phase.ACCEPTING
    return round_


def test_it_closes_as_soon_as_all_are_ready() -> None:
    round_ = opened(2)
    round_.advance(100.0)
    assert round_.phase is Phase.GATHERING
    round_.ready(ready(1), peer(1), 103.5)
    round_.advance(103.5)
    assert round_.phase is Phase.REDUCING
    assert round_.plan.uids == tuple(UIDS[:2])
    assert round_.arrivals_s == [3.5]


def test_it_waits_for_the_grace_and_closes_without_who_did_not_come() -> None:
    round_ = opened(3)
    round_.ready(ready(1), peer(1), 101.0)
    round_.advance(119.9)
    assert round_.phase is Phase.GATHERING
    assert round_.waiting(119.0).waiting_for == (UIDS[2],)
    round_.advance(120.0)
    assert round_.plan.uids == tuple(UIDS[:2])


def test_who_cannot_be_reached_is_not_waited_for_but_counts_for_the_quorum() -> None:
    round_ = opened(3)
    round_.excuse(UIDS[1], "unreachable")
    round_.excuse(UIDS[2], "unreachable")
    round_.advance(101.0)
    assert round_.phase is Phase.GATHERING
    round_.advance(120.0)
    assert "no quorum: 1 of 3" in round_.verdict.reason
    assert f"{UIDS[1]} (unreachable)" in round_.verdict.reason


def test_a_round_that_only_the_dead_could_complete_is_given_up_at_once() -> None:
    round_ = opened(3)
    round_.lost(peer(1), "reset")
    round_.advance(101.0)
    assert round_.phase is Phase.GATHERING
    round_.excuse(UIDS[2], "connection refused", gone=True)
    round_.advance(101.5)
    assert "no quorum: 1 of 3" in round_.verdict.reason


def test_who_is_behind_has_no_say() -> None:
    round_ = opened(3)
    round_.excuse(UIDS[1], "behind", behind=True)
    round_.excuse(UIDS[2], "behind", behind=True)
    round_.advance(101.0)
    assert round_.plan.uids == (UIDS[0],)


def test_an_excused_member_may_still_come() -> None:
    round_ = opened(2)
    round_.excuse(UIDS[1], "unreachable")
    round_.ready(ready(1), peer(1), 101.0)
    round_.advance(101.0)
    assert round_.plan.uids == tuple(UIDS[:2])


def test_a_stranger_with_the_same_anchor_is_taken_in() -> None:
    round_ = opened(2)
    round_.ready(ready(3), peer(3), 101.0)
    round_.ready(ready(1), peer(1), 101.0)
    round_.advance(101.0)
    assert round_.plan.uids == (UIDS[0], UIDS[1], UIDS[3])


@pytest.mark.parametrize("other", [{"size": 99}, {"anchor": "b"}])
def test_another_layout_or_anchor_is_refused(other: dict) -> None:
    with pytest.raises(RoundAborted):
        opened(2).ready(ready(1, **other), peer(1), 101.0)


def test_nobody_can_be_ready_or_vote_for_somebody_else() -> None:
    round_ = opened(2)
    with pytest.raises(RemoteProtocolError):
        round_.ready(ready(0), peer(1), 101.0)
    round_ = closed(2)
    with pytest.raises(RemoteProtocolError):
        round_.vote(Vote("r", UIDS[0], "d"), peer(1))
    with pytest.raises(RemoteProtocolError):
        round_.vote(Vote("r", UIDS[3], "d"), peer(3))


def test_after_it_closed_nobody_joins() -> None:
    with pytest.raises(RoundAborted, match="closed without"):
        closed(2).ready(ready(3), peer(3), 106.0)


def test_a_value_is_proposed_only_when_all_members_hold_the_same_digest() -> None:
    round_ = closed(3)
    for index in range(2):
        round_.vote(Vote("r", UIDS[index], "d"), peer(index))
        round_.advance(106.0)
        assert round_.phase is Phase.REDUCING
    round_.vote(Vote("r", UIDS[2], "d"), peer(2))
    round_.advance(106.0)
    assert round_.phase is Phase.ACCEPTING
    assert round_.verdict is None
    assert round_.ballot.value == Value(round_.key, "r", VOTERS[:3], "d")


def test_it_commits_when_a_quorum_has_accepted() -> None:
    round_ = voted(3)
    round_.hear(Acceptance(VOTERS[0]))
    round_.advance(106.0)
    assert round_.phase is Phase.ACCEPTING
    round_.hear(Acceptance(VOTERS[1]))
    round_.advance(106.0)
    assert round_.verdict.chosen == Learn(Ballot(1, VOTERS[0]), round_.ballot.value)


def test_without_promises_of_a_quorum_nothing_is_proposed() -> None:
    round_ = asking(3)
    for index in range(3):
        round_.vote(Vote("r", UIDS[index], "d"), peer(index))
    round_.hear(Promise(VOTERS[0]))
    round_.advance(106.0)
    assert round_.phase is Phase.REDUCING
    assert round_.ballot.stage is Stage.PREPARING


def test_a_value_of_an_earlier_ballot_is_finished_without_waiting_for_votes() -> None:
    round_ = asking(3)
    old = Value(round_.key, "before", VOTERS[:2], "old")
    round_.hear(Promise(VOTERS[0]))
    round_.hear(Promise(VOTERS[1], Ballot(0, VOTERS[2]), old, holds=True))
    round_.advance(106.0)
    assert round_.phase is Phase.ACCEPTING
    assert round_.ballot.value == old


def test_who_may_hold_an_earlier_value_is_asked_also_outside_of_the_round() -> None:
    round_ = opened(3)
    round_.ready(ready(1), peer(1), 101.0)
    round_.advance(120.0)
    round_.begin(Ballot(1, VOTERS[0]))
    old = Value(round_.key, "before", VOTERS[:3], "old")
    round_.hear(Promise(VOTERS[0], Ballot(0, VOTERS[2]), old))
    assert round_.unheard() == {}
    round_.hear(Promise(VOTERS[1]))
    assert round_.unheard() == {UIDS[2]: peer(2)}
    for index in (0, 1):
        round_.vote(Vote("r", UIDS[index], "d"), peer(index))
    round_.advance(round_.decide_by)
    assert f"not heard of {VOTERS[2]}" in round_.verdict.reason


def test_a_ballot_that_is_outbid_is_over_but_another_may_follow() -> None:
    for round_ in (closed(2), voted(2)):
        round_.hear(Refusal(Ballot(9, VOTERS[1])))
        round_.advance(106.0)
        assert not round_.verdict.committed
        assert round_.verdict.again
        assert "outbid by ballot 9" in round_.verdict.reason


def test_a_step_that_another_has_taken_already_is_told_to_all() -> None:
    round_ = opened(2)
    chosen = Learn(Ballot(4, VOTERS[1]), Value(round_.key, "before", VOTERS[:2], "d"))
    round_.overtaken(UIDS[1], 4, chosen)
    assert round_.verdict.chosen == chosen
    round_ = opened(2)
    round_.overtaken(UIDS[1], 9)
    assert not round_.verdict.committed
    assert not round_.verdict.again


def test_the_voters_of_the_anchor_decide_and_not_the_roster() -> None:
    roster = [Member(UIDS[i], peer(i), 3, "a") for i in range(4)]
    first = ready(0, voters=VOTERS[:3])
    round_ = LeaderRound("r", first, roster, TERMS, now=100.0)
    for index in (0, 3):
        round_.ready(ready(index, voters=VOTERS[:3]), peer(index), 100.0)
    round_.advance(120.0)
    assert "2 of 4 ready, quorum 0.5, and more than half of the 3 members" in round_.verdict.reason


def test_different_digests_abort_and_name_the_holders() -> None:
    round_ = closed(2)
    round_.vote(Vote("r", UIDS[0], "one"), peer(0))
    round_.vote(Vote("r", UIDS[1], "two"), peer(1))
    round_.advance(106.0)
    assert not round_.verdict.committed
    assert f"one: {UIDS[0]}; two: {UIDS[1]}" in round_.verdict.reason


def test_a_vote_cannot_be_taken_back() -> None:
    round_ = closed(2)
    round_.vote(Vote("r", UIDS[0], "d"), peer(0))
    round_.vote(Vote("r", UIDS[0], "other"), peer(0))
    round_.vote(Vote("r", UIDS[1], "d"), peer(1))
    round_.advance(106.0)
    assert round_.ballot.value.digest == "d"


def test_a_fault_aborts_and_names_whom_it_blames() -> None:
    round_ = closed(3)
    round_.vote(Vote("r", UIDS[0], "", (UIDS[2],), "reset"), peer(0))
    assert round_.verdict.reason == f"{UIDS[2]} failed: reset (says {UIDS[0]})"


def test_a_lost_member_aborts_before_its_vote_but_not_after() -> None:
    round_ = closed(2)
    round_.vote(Vote("r", UIDS[1], "d"), peer(1))
    round_.lost(peer(1), "reset")
    assert round_.phase is Phase.REDUCING
    round_.lost(peer(0), "reset")
    assert f"{UIDS[0]} was lost: reset" in round_.verdict.reason
    assert round_.verdict.again


def test_a_member_that_is_lost_after_all_have_voted_changes_nothing() -> None:
    round_ = voted(3)
    round_.lost(peer(0), "reset")
    round_.fail(UIDS[0], "did not answer")
    for index in (1, 2):
        round_.hear(Acceptance(VOTERS[index]))
    round_.advance(107.0)
    assert round_.verdict.committed


def test_a_member_lost_while_gathering_is_left_out() -> None:
    round_ = opened(3)
    round_.ready(ready(1), peer(1), 101.0)
    round_.ready(ready(2), peer(2), 101.0)
    round_.lost(peer(2), "reset")
    round_.advance(101.0)
    assert round_.plan.uids == tuple(UIDS[:2])


def test_votes_that_do_not_come_abort_before_the_members_give_up() -> None:
    round_ = closed(2)
    round_.vote(Vote("r", UIDS[0], "d"), peer(0))
    round_.advance(round_.decide_by)
    assert f"no vote from {UIDS[1]}" in round_.verdict.reason
    assert round_.decide_by < round_.deadline


def test_nothing_changes_a_verdict() -> None:
    round_ = voted(2)
    for index in range(2):
        round_.hear(Acceptance(VOTERS[index]))
    round_.advance(106.0)
    round_.lost(peer(1), "reset")
    round_.give_up("stopped")
    round_.overtaken(UIDS[1], 9)
    assert round_.verdict.committed


def test_nothing_is_averaged_when_nobody_trained() -> None:
    roster = [Member(UIDS[0], peer(0), 3, "a")]
    round_ = LeaderRound("r", ready(0, samples=0), roster, TERMS, now=0.0)
    round_.ready(ready(0, samples=0), peer(0), 0.0)
    round_.advance(0.0)
    assert "nothing to average" in round_.verdict.reason


def test_a_half_roster_closes_only_with_its_first_leader() -> None:
    first = leader_order("tail", 3, UIDS[:2])[0]
    round_ = opened(2)  # only UIDS[0] is ready
    round_.advance(120.0)
    assert round_.phase is (Phase.REDUCING if first == UIDS[0] else Phase.DECIDED)
