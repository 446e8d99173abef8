"""What a trainer holds: taken once, worked off in order, reported when every stage has it."""

import pytest

from distqatd.roles.client_calls import MAX_HELD, Grant, Held
from distqatd.roles.trainer_leases import Leases


def grant(fence, first=0, end=0):
    return Grant(1, fence, first, end, (), is_over=False, reason="")


def leases(*granted):
    made = Leases()
    for fence, first, end in granted:
        made.take(grant(fence, first, end))
    return made


def test_a_lease_that_is_offered_twice_is_held_once():
    held = leases((5, 0, 10), (5, 0, 10))
    assert held.held(None) == (Held(5, 0, 0, 10),)


def test_an_answer_without_a_lease_adds_none():
    assert leases((0, 0, 0)).current is None


def test_no_more_are_held_than_agreed():
    held = leases(*((fence, 10 * fence, 10 * fence + 10) for fence in range(1, 10)))
    assert len(held.held(None)) == MAX_HELD


def test_leases_are_worked_off_in_the_order_they_came():
    held = leases((5, 10, 12), (6, 0, 4))
    assert (held.current.fence, held.num_left) == (5, 6)
    held.current.next = 12
    assert (held.current.fence, held.num_left) == (6, 4)


def test_a_lease_that_is_done_is_told_before_it_is_forgotten():
    held = leases((5, 0, 4), (6, 4, 8))
    held.current.next = 4
    before = (Held(5, 0, 4, 4), Held(6, 4, 4, 8))
    assert held.held(None) == before
    held.answered(())
    assert held.held(None) == before
    held.answered(before)
    assert held.held(None) == (Held(6, 4, 4, 8),)


def test_a_batch_that_a_stage_may_not_have_applied_is_not_reported():
    held = leases((5, 0, 4), (6, 4, 8))
    held.current.next = 4
    assert held.held(3) == (Held(5, 0, 3, 4), Held(6, 4, 4, 8))
    held.answered(held.held(3))
    assert len(held.held(None)) == 2


def test_a_lease_that_was_reported_as_done_and_is_open_again_is_kept():
    held = leases((5, 0, 4))
    held.current.next = 4
    told = held.held(None)
    held.replay(2)
    held.answered(told)
    assert held.current.next == 2


def test_a_batch_that_is_in_no_lease_is_not_replayed():
    held = leases((5, 4, 8))
    held.replay(3)
    held.replay(4)
    assert held.current.next == 4


@pytest.mark.parametrize(
    ("num_left", "step_s", "wants"),
    [
        (0, 0.0, True),  # nothing left
        (10, 0.0, False),  # one lease until the speed is known
        (10, 0.1, True),  # a second of work
        (10, 3.0, False),  # half a minute of work
    ],
)
def test_more_is_asked_for_while_what_is_held_lasts_less_than_a_change_of_client(
    num_left, step_s, wants
):
    held = leases((5, 0, 10))
    held.current.next = 10 - num_left
    assert held.wants_more(step_s) is wants
