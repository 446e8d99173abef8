"""Contributions that are broken or hostile: named and left out, or shortened; never a veto."""

from dataclasses import replace

import pytest
import torch

from distqatd.averaging.records import Committed
from tests.support.averaging_swarm import Gift, Swarm, gifts, on_virtual_time
from tests.unit.averaging.test_butterfly import Ring, oracle, plan_for, values_for

SIZE = 9000


def honest(num: int) -> list[torch.Tensor]:
    """Return contributions that agree on a direction, with as much noise as signal."""
    direction = torch.randn(SIZE, generator=torch.Generator().manual_seed(99))
    return [direction + noise for noise in values_for(num, SIZE)]


def exchanged(values: list[torch.Tensor], samples: list[int], name="fp32", plan=None, **limits):
    async def scenario() -> Ring:
        ring = Ring(plan or plan_for(samples, SIZE, name), values, **limits)
        assert await ring.run() == [None] * len(samples)
        return ring

    ring = on_virtual_time(scenario())
    for fly in ring.flies:
        assert torch.equal(fly.mean, ring.flies[0].mean)
        assert fly.dropped == ring.flies[0].dropped
    return ring.flies[0]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_are_left_out_and_named(bad: float) -> None:
    values = values_for(4, SIZE)
    values[2][:] = bad
    fly = exchanged(values, [1, 2, 3, 4])
    assert fly.dropped == ("tail.0.2.0",)
    torch.testing.assert_close(fly.mean, oracle(values, [1, 2, 0, 4]))


def test_one_value_that_is_not_finite_costs_its_chunk() -> None:
    values = values_for(3, SIZE)
    values[1][5] = torch.nan
    fly = exchanged(values, [1, 1, 1])
    assert fly.dropped == ("tail.0.1.0",)
    assert bool(fly.mean.isfinite().all())
    assert torch.equal(fly.mean[-1000:], oracle(values, [1, 1, 1])[-1000:])


def test_values_that_are_finite_nowhere_end_the_round() -> None:
    async def scenario() -> None:
        ring = Ring(plan_for([1, 1], SIZE), [torch.full((SIZE,), torch.nan)] * 2)
        faults = await ring.run(5.0)
        assert any(fault is not None and "finite nowhere" in fault.reason for fault in faults)

    on_virtual_time(scenario())


@pytest.mark.parametrize("name", ["fp32", "int8"])
def test_without_attackers_limits_change_little(name: str) -> None:
    values, samples = honest(5), [1, 2, 1, 1, 0]
    plain = oracle(values, samples)
    fly = exchanged(values, samples, name, clip_factor=2.0, is_centered=True)
    assert fly.dropped == ()
    assert float((fly.mean - plain).norm() / plain.norm()) < 0.3
    clipped = exchanged(values, samples, name, clip_factor=2.0, is_centered=False)
    assert float((clipped.mean - plain).norm() / plain.norm()) < (1e-5 if name == "fp32" else 0.02)


def test_an_attacker_that_shouts_is_shortened_to_the_usual_length() -> None:
    values, samples = honest(5), [1] * 5
    values[3] = -1000 * values[3]
    wanted = oracle(values, [1, 1, 1, 0, 1])
    plain = exchanged(values, samples).mean
    clipped = exchanged(values, samples, clip_factor=2.0, is_centered=False).mean
    assert float((plain - wanted).norm() / wanted.norm()) > 100
    assert float((clipped - wanted).norm() / wanted.norm()) < 1.0


def test_two_attackers_of_seven_that_agree_cannot_turn_the_mean() -> None:
    values, samples = honest(7), [1] * 7
    wanted = oracle(values, [1, 1, 1, 1, 1, 0, 0])
    values[5] = values[6] = -10 * wanted
    plain = exchanged(values, samples).mean
    centered = exchanged(values, samples, clip_factor=None, is_centered=True).mean

    def error(mean: torch.Tensor) -> float:
        return float((mean - wanted).norm() / wanted.norm())

    assert error(plain) > 3
    assert error(centered) < 0.6
    assert float(torch.dot(centered, wanted)) > 0


def test_an_attacker_without_numbers_is_left_out_of_a_robust_mean() -> None:
    values, samples = honest(4), [1] * 4
    values[0][:] = torch.nan
    fly = exchanged(values, samples, clip_factor=2.0, is_centered=True)
    assert fly.dropped == ("tail.0.0.0",)
    assert bool(fly.mean.isfinite().all())


def test_past_lengths_bound_what_a_pair_can_do() -> None:
    values = [10 * value for value in honest(2)]
    usual = float(values[0].norm()) / 10
    plan = replace(plan_for([1, 1], SIZE), past_norms=(usual,) * 5)
    fly = exchanged(values, [1, 1], plan=plan, clip_factor=1.5, is_centered=False)
    assert float(fly.mean.norm()) <= 1.51 * usual


def test_statistics_keep_weights_that_add_up_to_one() -> None:
    values, samples = honest(4), [1] * 4
    values[1] = 50 * values[1]
    for value in values:
        value[8000:] = 3.0
    plan = replace(plan_for(samples, SIZE, "int4"), num_coded=8000)
    fly = exchanged(values, samples, plan=plan, clip_factor=1.0, is_centered=True)
    torch.testing.assert_close(fly.mean[8000:], torch.full((1000,), 3.0))


def test_ranges_are_the_largest_of_all_that_trained() -> None:
    values = values_for(3, SIZE)
    values[0][8500:] = -torch.inf  # nothing seen
    plan = replace(plan_for([1, 1, 0], SIZE, "int4"), num_coded=8000, num_averaged=8500)
    fly = exchanged(values, [1, 1, 0], plan=plan)
    assert torch.equal(fly.mean[8500:], values[1][8500:])
    assert fly.dropped == ()


@pytest.mark.parametrize("config", [{"clip_factor": 2.0}, {"robust": "centered_clip"}])
def test_whole_rounds_are_robust_by_configuration(config: dict[str, object]) -> None:
    async def scenario() -> list[object]:
        async with Swarm(3, codec="int8", **config) as swarm:
            first = await swarm.round(gifts(3, 5000))
            bad = [*gifts(2, 5000), Gift(torch.full((5000,), 1e9), 1)]
            return [*first, *await swarm.round(bad)]

    outcomes = on_virtual_time(scenario())
    assert all(isinstance(outcome, Committed) for outcome in outcomes)
    assert len({outcome.digest for outcome in outcomes[:3]}) == 1
    assert float(outcomes[-1].mean.abs().max()) < 100
