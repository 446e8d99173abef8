"""What a member says of its line: measured, smoothed, and the same again unless it has changed."""

import pytest

from distqatd.averaging.bandwidth import Bandwidth, mean_speed, said
from distqatd.base.errors import RoundAborted
from distqatd.net.meter import Meter, Span, Speed
from tests.support.averaging_swarm import on_virtual_time

NONE = Speed()


def learned(*rounds: tuple[Speed, Speed]) -> Bandwidth:
    line = Bandwidth()
    for newest, mean in rounds:
        line.learn(newest, mean)
    return line


def test_nothing_is_said_before_something_was_measured() -> None:
    assert learned((NONE, Speed(9e6, 9e6))).bytes_per_s == 0.0


def test_the_slower_direction_counts() -> None:
    assert learned((Speed(5e6, 40e6), NONE)).bytes_per_s == 5e6
    assert learned((Speed(0.0, 40e6), NONE)).bytes_per_s == 40e6


def test_noise_changes_nothing_and_a_slower_machine_is_seen_in_two_rounds() -> None:
    noisy = [(Speed(rate, rate), NONE) for rate in (10e6, 11e6, 9e6, 12e6, 9.5e6)]
    assert learned(*noisy).bytes_per_s == 10e6
    slower = [(Speed(1e6, 1e6), NONE)] * 2
    assert learned(*noisy, *slower).bytes_per_s < 4e6


def test_a_line_that_is_never_busy_any_more_is_seen_to_have_become_faster() -> None:
    slow = (Speed(1e6, 1e6), NONE)
    assert learned(slow, (NONE, Speed(0.5e6, 0.5e6))).bytes_per_s == 1e6
    assert learned(slow, (NONE, Speed(5e6, 4e6))).bytes_per_s == 4e6


def test_a_short_exchange_has_no_mean_speed() -> None:
    assert mean_speed(Speed(1e6, 1e6), 0.01) == NONE
    assert mean_speed(Speed(1e6, 2e6), 2.0) == Speed(0.5e6, 1e6)


def test_what_is_said_fits_into_a_message() -> None:
    assert said(0.0, Speed(1e-9, 0.0)) == 1.0
    assert said(5.0, Speed(5.5, 6.0)) == 5.0


def test_an_exchange_that_fails_has_still_measured() -> None:
    meter = Meter()
    line = Bandwidth(meter)

    async def exchange() -> None:
        stream = Span(meter.up, 1.0)
        with line.measuring():
            stream.begin(0.0)
            stream.moved(1 << 20, 0.5)
            raise RoundAborted("a member was lost")

    with pytest.raises(RoundAborted):
        on_virtual_time(exchange())
    assert line.bytes_per_s == 2 << 20
