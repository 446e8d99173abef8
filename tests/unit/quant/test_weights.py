"""Which weights share a step, where steps begin, and what the quantizers make of a weight."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from distqatd.config.quant import WeightQuantConfig
from distqatd.quant.grouping import Grouping
from distqatd.quant.levels import signed_range
from distqatd.quant.weights import LearnedStepWeights, MinMaxWeights, best_step

shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


def scheme(bits, granularity="channel", **keys):
    return WeightQuantConfig(bits=bits, granularity=granularity, **keys)


@given(shapes, st.sampled_from(["tensor", "channel", "group"]), st.data(), st.integers(2, 9))
def test_joining_undoes_splitting(shape, granularity, data, group_size):
    axis = data.draw(st.integers(0, len(shape) - 1))
    grouping = Grouping(shape, granularity, axis, group_size)
    weight = torch.randn(shape)
    split = grouping.split(weight)
    assert split.shape == (grouping.num_groups, grouping.num_values)
    assert torch.equal(grouping.join(split), weight)
    assert grouping.join(split).is_contiguous()
    assert grouping.join(split.contiguous()).is_contiguous()


def test_a_channel_of_a_transposed_weight_is_a_column():
    weight = torch.arange(6.0).view(2, 3)
    assert Grouping((2, 3), "channel", 1).split(weight).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert Grouping((2, 3), "group", 1, 4).split(weight)[1].tolist() == [1, 4, 0, 0]


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("make", [LearnedStepWeights, MinMaxWeights])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
def test_codes_times_steps_are_the_rounded_weight_bit_for_bit(bits, make, granularity):
    weight = torch.randn(6, 3, 5)
    quantizer = make(scheme(bits, granularity, group_size=4), weight, 0)
    rounded = quantizer(weight)
    codes, steps = quantizer.codes(weight)
    low, high = signed_range(bits)
    assert codes.min() >= low
    assert codes.max() <= high
    assert torch.equal(quantizer.grouping.join(codes.float() * steps), rounded)


def error(weight, bits, step):
    low, high = signed_range(bits)
    return ((weight / step).round().clamp(low, high) * step - weight).square().sum()


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("size", [1e-6, 0.02, 30.0])
def test_steps_begin_where_rounding_normal_weights_costs_least(bits, size):
    weight = torch.randn(1, 8192, generator=torch.Generator().manual_seed(0)) * size
    low, high = signed_range(bits)
    found = error(weight, bits, LearnedStepWeights(scheme(bits), weight, 0).step(weight))
    assert found <= error(weight, bits, best_step(weight, low, high)) * 1.3
    assert found <= error(weight, bits, 2 * weight.abs().mean() / high**0.5)
    assert found <= error(weight, bits, weight.abs().max() / high) * 1.1


def test_steps_follow_weights_that_grow_and_keep_their_gain():
    weight = torch.randn(3, 16)
    quantizer = LearnedStepWeights(scheme(3), weight, 0)
    torch.nn.init.normal_(quantizer.log_gain)
    assert torch.allclose(quantizer.step(weight * 8), quantizer.step(weight) * 8)
    twin = LearnedStepWeights(scheme(3), weight * 100, 0)
    assert torch.equal(twin.step(weight), LearnedStepWeights(scheme(3), weight, 0).step(weight))


@pytest.mark.parametrize("weight", [torch.zeros(3, 16), torch.full((3, 16), 1e-40)])
def test_weights_that_are_zero_stay_so_and_have_finite_gradients(weight):
    quantizer = LearnedStepWeights(scheme(2), weight, 0)
    given = weight.clone().requires_grad_()
    rounded = quantizer(given)
    assert torch.allclose(rounded, weight)
    rounded.sum().backward()
    assert torch.equal(given.grad, torch.ones_like(weight))
    assert torch.isfinite(quantizer.log_gain.grad).all()


def test_min_max_steps_follow_the_weight():
    quantizer = MinMaxWeights(scheme(4), torch.ones(2, 8), 0)
    assert not list(quantizer.parameters())
    assert torch.equal(quantizer.step(torch.ones(2, 8)) * 10, quantizer.step(torch.ones(2, 8) * 10))


def test_training_with_two_bits_fits_a_layer_better_than_its_start():
    torch.manual_seed(0)
    inputs, target = torch.randn(256, 16), torch.randn(16, 8)
    weight = nn.Parameter(torch.randn(8, 16) * 0.3)
    quantizer = LearnedStepWeights(scheme(2), weight, 0)
    optimizer = torch.optim.Adam([weight, *quantizer.parameters()], lr=1e-2)
    losses = []
    for _ in range(300):
        loss = (inputs @ quantizer(weight).t() - inputs @ target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 5
    assert quantizer.log_gain.abs().max() > 0.1
