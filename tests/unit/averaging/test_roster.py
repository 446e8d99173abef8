"""Who leads, when a round may close, how long it waits."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distqatd.averaging.roster import grace_s, leader_order, retry_grace_s, share_holds
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


@pytest.mark.parametrize(
    ("num_ready", "num_all", "quorum", "holds"),
    [(1, 1, 0.5, True), (2, 3, 0.5, True), (1, 3, 0.3, True), (2, 3, 0.9, False), (3, 3, 1, True)],
)
def test_the_share_of_the_roster_is_rounded_up(
    num_ready: int, num_all: int, quorum: float, holds: bool
) -> None:
    decision = share_holds(UIDS[:num_ready], UIDS[:num_all], quorum)
    assert decision.value is holds
    assert f"{num_ready} of {num_all} ready" in decision.reason


def test_a_ballot_after_one_that_fell_apart_waits_for_stragglers_no_longer_than_a_margin() -> None:
    assert retry_grace_s(grace_s([], 60.0), 5.0).value == 5.0
    assert retry_grace_s(grace_s([0.5] * 9, 60.0), 5.0).value == 1.0
    assert retry_grace_s(grace_s([], 60.0), 0.1).value == 1.0


def test_the_grace_is_half_the_timeout_until_arrivals_say_better() -> None:
    assert grace_s([], 60.0).value == 30.0
    assert grace_s([0.1] * 4, 60.0).value == 30.0
    assert grace_s([2.0, 2.1, 1.9, 2.0, 2.2], 60.0).value == pytest.approx(2.6)
    assert grace_s([0.0] * 9, 60.0).value == 1.0
    assert grace_s([100.0] * 9, 60.0).value == 30.0
    assert "median" in grace_s([2.0] * 5, 60.0).reason
