"""Pipelines of any speed come to a round together, and noise plans nothing anew."""

from hypothesis import given
from hypothesis import strategies as st

from distqatd.swarm.pace import MAX_PACE, NEAR, Measured, plan_paces

TIMES = st.dictionaries(st.integers(0, 9), st.floats(1e-3, 1e3), min_size=1)


def shares(step_s, held=None, inner_steps=50, *, by_batch=False):
    plan = plan_paces(Measured(step_s, held or {}, inner_steps, by_batch))
    return {number: decision.value for number, decision in plan.items()}


def test_two_of_four_at_a_fifth_take_a_fifth_of_the_steps():
    assert shares({0: 0.1, 1: 0.1, 2: 0.5, 3: 0.5}) == {0: 1.0, 1: 1.0, 2: 0.2, 3: 0.2}


def test_every_decision_says_why():
    plan = plan_paces(Measured({0: 0.1, 1: 0.5}, {}, 50))
    assert (
        plan[0].reason == "50 inner steps a round: pipeline 0 takes 0.1 s a step, the fastest of 2"
    )
    assert plan[1].reason == (
        "10 of 50 inner steps a round: pipeline 1 takes 0.5 s a step, pipeline 0 0.1 s; so both "
        "come to a round together"
    )


def test_what_is_not_measured_yet_is_not_planned():
    assert shares({}) == {}
    assert shares({1: 3.0}) == {1: 1.0}


@given(TIMES, st.integers(1, 500))
def test_nobody_arrives_later_than_the_fastest_by_more_than_noise_or_one_step(step_s, inner_steps):
    fastest = min(step_s.values()) * inner_steps
    for number, share in shares(step_s, inner_steps=inner_steps).items():
        steps = round(share * inner_steps)
        assert 1 <= steps <= inner_steps
        took = steps * step_s[number]
        assert steps == 1 or took <= fastest / NEAR * (1 + 1e-9)


@given(TIMES, st.dictionaries(st.integers(0, 9), st.floats(0.01, 1.0)))
def test_the_fastest_always_takes_all_steps(step_s, held):
    fastest = min(step_s, key=lambda number: (step_s[number], number))
    assert shares(step_s, held)[fastest] == 1.0


def test_noise_plans_nothing_anew_but_a_machine_that_slows_down_does():
    held = {0: 1.0, 1: 0.5}
    assert shares({0: 0.1, 1: 0.21}, held)[1] == 0.5
    assert shares({0: 0.1, 1: 0.105}, held)[1] == 1.0
    assert shares({0: 0.1, 1: 0.4}, held)[1] == 0.24
    assert shares({0: 0.1, 1: 0.115}, {1: 1.0})[1] == 1.0


def test_by_batch_the_slowest_sets_the_pace_and_the_others_gather_steps():
    step_s = {0: 0.1, 1: 0.2, 2: 0.5, 3: 0.48}
    assert shares(step_s, by_batch=True) == {0: 5.0, 1: 2.5, 2: 1.0, 3: 1.0}
    plan = plan_paces(Measured(step_s, {}, 50, by_batch=True))
    assert plan[0].reason == (
        "250 steps a round, 5 in each update: pipeline 0 takes 0.1 s a step, pipeline 2 0.5 s; so "
        "both come to a round together"
    )
    assert plan[2].reason == (
        "50 inner steps a round: pipeline 2 takes 0.5 s a step, the slowest of 4"
    )


@given(TIMES, st.integers(1, 500))
def test_by_batch_nobody_is_later_than_the_slowest_by_more_than_noise(step_s, inner_steps):
    slowest = max(step_s.values()) * inner_steps
    for number, pace in shares(step_s, inner_steps=inner_steps, by_batch=True).items():
        assert 1.0 <= pace <= MAX_PACE
        assert round(pace * inner_steps) * step_s[number] <= slowest / NEAR * (1 + 1e-9)
