"""The loss scale: when it halves, when it doubles, what is accepted of it from elsewhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distqatd.compute.scale import LARGEST, SMALLEST, LossScale

POWERS = st.integers(0, 32).map(lambda exponent: 2.0**exponent)


def test_it_halves_at_an_overflow_and_doubles_after_enough_good_steps():
    scale = LossScale(1024.0, 2).after_overflow()
    assert scale == LossScale(512.0, 0)
    for _ in range(2):
        scale = scale.after_good(3)
    assert scale == LossScale(512.0, 2)
    assert scale.after_good(3) == LossScale(1024.0, 0)


@given(value=POWERS, overflows=st.lists(st.booleans(), max_size=80))
def test_it_stays_a_power_of_two_within_its_bounds_and_travels(value, overflows):
    scale = LossScale(value)
    for overflow in overflows:
        scale = scale.after_overflow() if overflow else scale.after_good(1)
        assert SMALLEST <= scale.value <= LARGEST
        assert LossScale.read(scale.body()) == scale


@pytest.mark.parametrize(
    "value",
    [
        *(None, 2.0, [2.0], [2, 0], [2.0, True], [3.0, 0], [0.5, 0], [2.0**33, 0], [2.0, -1]),
        *([float("nan"), 0], [float("inf"), 0], [2.0, 0, 0], ["2", 0]),
    ],
)
def test_what_is_no_scale_is_refused(value):
    with pytest.raises(ValueError, match="is no loss scale"):
        LossScale.read(value)
