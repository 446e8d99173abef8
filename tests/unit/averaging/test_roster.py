"""Who leads, when a round may close, how long it waits."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distqatd.averaging.roster import grace_s, leader_order, quorum_holds
from distqatd.base.ids import make_uid

UIDS = [make_uid("tail", index) for index in range(6)]


@given(st.permutations(UIDS), st.integers(0, 1000))
def test_every_peer_finds_the_same_leader_in_whatever_order_it_knows_the_others(
    known: list[str], step: int
) -> None:
    assert leader_order("tail", step, known) == leader_order("tail", step, UIDS)


@given(st.sets(st.sampled_from(UIDS), min_size=1), st.integers(0, 1000))
def test_a_missing_member_moves_nobody_else(known: set[str], step: int) -> None:
    full = leader_order("tail", step, UIDS)
    assert leader_order("tail", step, known) == tuple(uid for uid in full if uid in known)


def test_everybody_leads_about_equally_often() -> None:
    first = Counter(leader_order("tail", step, UIDS)[0] for step in range(600))
    assert min(first.values()) > 60


@given(st.lists(st.sampled_from([0, 1]), min_size=1, max_size=6), st.floats(0.01, 1.0))
def test_of_two_parts_of_a_roster_at_most_one_has_a_quorum(side: list[int], quorum: float) -> None:
    roster = UIDS[: len(side)]
    parts = [[uid for uid, s in zip(roster, side, strict=True) if s == part] for part in (0, 1)]
    first = leader_order("tail", 1, roster)[0]
    assert sum(quorum_holds(part, roster, first, quorum).value for part in parts) <= 1


@pytest.mark.parametrize(
    ("num_ready", "num_all", "quorum", "holds"),
    [(1, 1, 0.5, True), (2, 3, 0.5, True), (1, 3, 0.3, False), (2, 3, 0.9, False), (3, 3, 1, True)],
)
def test_a_quorum_is_the_share_and_more_than_half(
    num_ready: int, num_all: int, quorum: float, holds: bool
) -> None:
    decision = quorum_holds(UIDS[:num_ready], UIDS[:num_all], UIDS[0], quorum)
    assert decision.value is holds
    assert f"{num_ready} of {num_all} ready" in decision.reason


def test_half_of_a_roster_is_enough_for_the_half_with_the_first_leader() -> None:
    assert quorum_holds(UIDS[:1], UIDS[:2], UIDS[0], 0.5).value
    assert not quorum_holds(UIDS[:1], UIDS[:2], UIDS[1], 0.5).value


def test_the_grace_is_half_the_timeout_until_arrivals_say_better() -> None:
    assert grace_s([], 60.0).value == 30.0
    assert grace_s([0.1] * 4, 60.0).value == 30.0
    assert grace_s([2.0, 2.1, 1.9, 2.0, 2.2], 60.0).value == pytest.approx(2.6)
    assert grace_s([0.0] * 9, 60.0).value == 1.0
    assert grace_s([100.0] * 9, 60.0).value == 30.0
    assert "median" in grace_s([2.0] * 5, 60.0).reason
