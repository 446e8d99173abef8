"""Schedules are pure functions of the outer step: of every replica, and of a joiner."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from distqatd.base.errors import ConfigError
from distqatd.config.load import load
from distqatd.config.schedules import RunSchedule, coupled_momentum, lr_factor
from distqatd.config.sections import (
    DilocoConfig,
    InnerOptimConfig,
    OuterOptimConfig,
    WarmStartConfig,
)

WARM = WarmStartConfig(length=4, round_steps=2, ramp=3)


def schedule(**values):
    return RunSchedule(DilocoConfig(**values))


def test_without_a_warm_start_every_round_has_the_same_length():
    plain = schedule(inner_steps=7, outer_steps=3)
    assert [plain.inner_steps(n) for n in range(5)] == [7] * 5
    assert (plain.first_step(2), plain.total_steps) == (14, 21)


def test_rounds_are_short_at_first_and_grow_to_the_usual_length():
    warm = schedule(inner_steps=32, outer_steps=10, warm_start=WARM)
    assert [warm.inner_steps(n) for n in range(9)] == [2, 2, 2, 2, 4, 8, 16, 32, 32]
    assert [warm.is_warm_start(n) for n in (3, 4)] == [True, False]


@given(st.integers(0, 6), st.integers(1, 9), st.integers(0, 6), st.integers(0, 30))
def test_the_global_step_is_the_sum_of_the_rounds_before(warm, length, ramp, outer_step):
    found = schedule(
        inner_steps=20,
        warm_start=WarmStartConfig(length=warm, round_steps=length, ramp=ramp),
    )
    before = sum(found.inner_steps(n) for n in range(outer_step))
    assert found.first_step(outer_step) == before
    assert found.global_step(outer_step, 3) == before + 3
    assert 1 <= found.inner_steps(outer_step) <= 20


def test_cosine_is_that_of_the_reference_and_ends_at_the_floor():
    inner = InnerOptimConfig(lr_schedule="cosine", warmup_steps=50)
    factors = [lr_factor(inner, step, 1600) for step in range(1600)]
    assert factors[0] == 1 / 50
    assert factors[49] == 1.0
    expected = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (800 - 50) / 1550))
    assert factors[800] == pytest.approx(expected)
    assert factors[-1] == pytest.approx(0.1, abs=1e-4)
    assert lr_factor(inner, 5000, 1600) == pytest.approx(0.1)


def test_wsd_is_flat_until_its_last_steps():
    inner = InnerOptimConfig(lr_schedule="wsd", decay_steps=100, min_lr_ratio=0.0)
    assert lr_factor(inner, 0, 1000) == lr_factor(inner, 900, 1000) == 1.0
    assert lr_factor(inner, 950, 1000) == pytest.approx(0.5)
    assert lr_factor(inner, 1000, 1000) == 0.0
    assert lr_factor(inner.model_copy(update={"decay_steps": None}), 950, 1000) == 0.5


def test_momentum_is_coupled_to_the_length_of_rounds_unless_it_is_given():
    assert [coupled_momentum(h) for h in (1, 5, 10, 50, 500)] == [0.0, 0.0, 0.5, 0.9, 0.9]
    assert schedule(inner_steps=10).outer_rule(0).momentum == 0.5
    given_one = OuterOptimConfig(sgd_momentum=0.9)
    assert schedule(inner_steps=10, outer_optim=given_one).outer_rule(0).momentum == 0.9


def test_a_given_momentum_that_is_too_high_is_told_and_kept():
    high = schedule(inner_steps=10, outer_optim=OuterOptimConfig(sgd_momentum=0.9)).momentum_fits()
    assert not high.value
    assert "0.9 is high for rounds of 10 inner steps; leave it out for 0.5" in high.reason
    assert schedule(inner_steps=10).momentum_fits().value
    assert schedule(outer_optim=OuterOptimConfig(sgd_momentum=0.9)).momentum_fits().value


def test_only_rounds_of_the_warm_start_go_without_momentum():
    warm = schedule(inner_steps=32, warm_start=WARM)
    assert warm.outer_rule(3).is_warm_start
    assert not warm.outer_rule(4).is_warm_start


def test_a_warm_start_with_longer_rounds_than_the_run_is_refused(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("diloco: {inner_steps: 3, warm_start: {length: 1, round_steps: 4}}")
    with pytest.raises(ConfigError, match=r"yaml:1: diloco: warm_start\.round_steps 4 is above"):
        load((str(file),))


def test_fragments_take_turns_after_the_warm_start_and_the_last_outer_step_takes_all():
    parts = schedule(inner_steps=8, outer_steps=9, fragments=3, warm_start={"length": 2, "ramp": 1})
    assert [parts.fragment(k) for k in range(9)] == [None, None, None, 0, 1, 2, 0, 1, None]
    assert [parts.outer_count(k) for k in range(2, 9)] == [1, 2, 2, 2, 3, 3, 3]
    assert {parts.inner_steps(k) for k in range(3, 9)} == {8}
    plain = schedule(inner_steps=8, outer_steps=9)
    assert {plain.fragment(k) for k in range(9)} == {None}
    assert [plain.outer_count(k) for k in range(3)] == [1, 2, 3]


def test_steps_go_on_beside_long_rounds_but_the_last():
    over = schedule(
        inner_steps=8, outer_steps=6, overlap_steps=3, warm_start={"length": 2, "ramp": 1}
    )
    assert [over.overlap(k) for k in range(6)] == [0, 0, 0, 3, 3, 0]
    with pytest.raises(ValidationError, match="overlap_steps 8 is not below inner_steps 8"):
        schedule(inner_steps=8, overlap_steps=8)


def test_the_momentum_of_fragments_goes_by_the_steps_from_turn_to_turn():
    parts = schedule(inner_steps=25, outer_steps=9, fragments=2)
    assert parts.outer_rule(0).momentum == coupled_momentum(50) == 0.9
    high = schedule(
        inner_steps=5, fragments=2, outer_optim=OuterOptimConfig(sgd_momentum=0.9)
    ).momentum_fits()
    assert "rounds of 10 inner steps" in high.reason
