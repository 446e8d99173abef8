"""How long a step may take follows from what the route's steps have taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distqatd.pipeline.patience import FLOOR_S, MIN_STEPS, UNKNOWN_S, step_patience

STEPS = st.lists(st.floats(0.001, 1000.0), max_size=64)


def test_a_route_that_is_not_known_yet_gets_the_configured_time() -> None:
    decision = step_patience([0.05] * (MIN_STEPS - 1), 60.0)
    assert (decision.value.ask_s, decision.value.give_up_s) == (UNKNOWN_S, 60.0)
    assert "7 steps are known, 8 are needed" in decision.reason


def test_a_fast_route_is_asked_after_a_second_and_given_up_after_fifteen() -> None:
    decision = step_patience([0.05, 0.06] * 10, 60.0)
    assert (decision.value.ask_s, decision.value.give_up_s) == (FLOOR_S, 15.0)
    assert decision.reason.startswith("20 steps took 0.055 s with a deviation of 0.007 s")


@pytest.mark.parametrize(
    ("steps_s", "ask_s"),
    [
        ([2.0] * 20, 8.0),  # four times the median
        ([2.0] * 19 + [30.0], 8.0),  # one straggler changes nothing
        ([1.0, 2.0, 3.0] * 10, 2.0 + 10 * 1.4826),  # ten deviations
        ([100.0] * 20, 60.0),  # never longer than what is configured
    ],
)
def test_a_step_is_late_when_it_is_far_from_the_others(steps_s, ask_s) -> None:
    assert step_patience(steps_s, 60.0).value.ask_s == pytest.approx(ask_s)


@given(STEPS, st.floats(1.0, 600.0))
def test_nobody_waits_longer_than_is_configured_nor_gives_up_before_asking(steps_s, cap_s) -> None:
    patience = step_patience(steps_s, cap_s).value
    assert 0 < patience.ask_s <= patience.give_up_s <= cap_s
