"""Rounding of layer inputs: the observed range, the learned step, and the fixed form of both."""

import pytest
import torch

from distqatd.config.quant import InputQuantConfig
from distqatd.quant.inputs import FixedInputs, LearnedStepInputs, MinMaxInputs

MAKERS = [LearnedStepInputs, MinMaxInputs]


def trained(make, bits=8, low=-1.0, high=3.0, **keys):
    quantizer = make(InputQuantConfig(bits=bits, **keys))
    quantizer(torch.linspace(low, high, 64))
    return quantizer


@pytest.mark.parametrize("make", MAKERS)
def test_nothing_is_rounded_before_something_was_observed(make):
    quantizer = make(InputQuantConfig(bits=2)).eval()
    values = torch.randn(9)
    assert torch.equal(quantizer(values), values)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.5, 2.0), (-2.0, -0.5)])
def test_zero_is_exact_and_errors_are_below_a_step(make, bits, low, high):
    quantizer = trained(make, bits, low, high).eval()
    values = torch.linspace(low, high, 100)
    step = (max(high, 0) - min(low, 0)) / (2**bits - 1)
    assert quantizer(torch.zeros(3)).tolist() == [0, 0, 0]
    assert (quantizer(values) - values).abs().max() <= step * 1.001
    assert len(quantizer(values).unique()) <= 2**bits


def test_the_range_moves_by_the_momentum():
    quantizer = trained(MinMaxInputs, momentum=0.25)
    assert quantizer.range_max == 3.0
    quantizer(torch.tensor([-2.0, 7.0]))
    assert quantizer.range_max == 4.0
    assert quantizer.range_min == -1.25
    quantizer.eval()(torch.tensor([100.0]))
    assert quantizer.range_max == 4.0


def test_the_step_and_the_inputs_are_trained():
    quantizer = trained(LearnedStepInputs, bits=2)
    values = torch.randn(4, 8, requires_grad=True)
    quantizer(values).square().sum().backward()
    assert quantizer.log_gain.grad != 0
    assert values.grad.count_nonzero() > 0
    assert not list(trained(MinMaxInputs).parameters())


@pytest.mark.parametrize("make", MAKERS)
def test_fixed_levels_give_the_same_bits(make):
    quantizer = trained(make, bits=3).eval()
    if make is LearnedStepInputs:
        torch.nn.init.constant_(quantizer.log_gain, -0.37)
    step, low, high = quantizer.levels()
    values = torch.randn(1000) * 3
    assert torch.equal(FixedInputs(step.detach(), low, high)(values), quantizer(values))


def test_a_fixed_step_of_zero_passes_inputs_on():
    values = torch.randn(5)
    assert torch.equal(FixedInputs(*torch.zeros(3))(values), values)


def test_only_zeros_stay_zeros():
    quantizer = MinMaxInputs(InputQuantConfig(bits=4))
    assert quantizer(torch.zeros(5)).tolist() == [0.0] * 5
