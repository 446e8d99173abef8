"""The rounding and its gradients: the paper's formulas, and finite differences of what it means."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from distqatd.quant.levels import (
    SMALLEST_STEP,
    fake_quantise,
    signed_range,
    step_grad_scale,
    trained_step,
)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def paper_step_gradient(value, step, low, high):
    """Equation 3 of Esser et al. 2020, for one value."""
    scaled = value / step
    if scaled <= low:
        return low
    if scaled >= high:
        return high
    return -scaled + round(scaled)


@given(st.floats(-9, 9), st.floats(0.05, 3), st.sampled_from([2, 3, 4, 8]), st.booleans())
def test_the_step_gradient_is_the_papers(value, step, bits, is_unsigned):
    low, high = (0, 2**bits - 1) if is_unsigned else signed_range(bits)
    # On a bound itself the two one-sided derivatives differ, and either is right.
    assume(value / step not in (low, high))
    v = torch.tensor([value], dtype=torch.float64)
    s = torch.tensor([step], dtype=torch.float64, requires_grad=True)
    fake_quantise(v, s, low, high).sum().backward()
    assert s.grad.item() == pytest.approx(paper_step_gradient(value, step, low, high), abs=1e-9)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_step_gradient_agrees_with_finite_differences(bits):
    """With the integers held, as the paper derives it: d(code * s)/ds inside, and the STE of v/s.

    v^ = round(v/s) s. Rounding counts as the identity plus a constant, so v^ is taken as
    (v/s + (round(v0/s0) - v0/s0)) s near (v0, s0), and a bound beyond the range.
    """
    low, high = signed_range(bits)
    v, grad = random(5, 40), random(5, 40, seed=1)
    s = (random(5, 1, seed=2).abs() + 0.1) * 4 / 2**bits
    offset = torch.round(v / s) - v / s
    is_inside = (v / s >= low) & (v / s <= high)

    def smooth(v, s):
        # v/s of the straight-through estimator does not carry the gradient of s; hence detached.
        codes = torch.where(is_inside, v0_over_s0 + offset, (v / s).clamp(low, high))
        inside = codes * s - v0_over_s0 * s + v
        return (torch.where(is_inside, inside, codes * s) * grad).sum(1)

    v0_over_s0 = v / s
    epsilon = 1e-6
    expected = (smooth(v, s + epsilon) - smooth(v, s - epsilon)) / (2 * epsilon)
    trained = s.clone().requires_grad_()
    (fake_quantise(v, trained, low, high) * grad).sum().backward()
    assert torch.allclose(trained.grad[:, 0], expected, rtol=1e-5, atol=1e-6)


def test_the_value_gradient_passes_inside_the_range_and_stops_beyond():
    v = torch.tensor([-3.1, -2.0, 0.3, 1.0, 1.2], requires_grad=True)
    fake_quantise(v, torch.ones(1), -2, 1).sum().backward()
    assert v.grad.tolist() == [0, 1, 1, 1, 0]


@given(st.integers(2, 8), st.floats(1e-3, 1e3))
def test_values_become_multiples_of_the_step_within_half_of_it(bits, step):
    low, high = signed_range(bits)
    v = torch.linspace(low * step, high * step, 101)
    rounded = fake_quantise(v, torch.tensor([step]), low, high)
    assert torch.all((rounded - v).abs() <= step * 0.5001)
    assert len(rounded.unique()) <= 2**bits
    again = fake_quantise(rounded, torch.tensor([step]), low, high)
    assert torch.equal(rounded, again)


def test_bounds_may_be_tensors_and_gradients_are_the_same():
    v, step = random(30).requires_grad_(), torch.tensor(0.3, requires_grad=True)
    low, high = torch.tensor(-2.0), torch.tensor(5.0)
    fake_quantise(v, step, low, high, 0.5).sum().backward()
    grads = v.grad.clone(), step.grad.clone()
    v.grad = step.grad = None
    fake_quantise(v, step, -2, 5, 0.5).sum().backward()
    assert torch.equal(grads[0], v.grad)
    assert torch.equal(grads[1], step.grad)


def test_the_gradient_scale_is_the_papers():
    assert step_grad_scale(100, 7) == pytest.approx(1 / (100 * 7) ** 0.5)


def test_sgd_moves_a_trained_step_as_if_it_were_the_parameter():
    base, lr = torch.tensor([0.25, 4.0]), 1e-4
    log_gain = torch.tensor([0.3, -0.2], requires_grad=True)
    slope = torch.tensor([2.0, -3.0])
    step = trained_step(base, log_gain)
    (step * slope).sum().backward()
    with torch.no_grad():
        moved = trained_step(base, log_gain - lr * log_gain.grad)
    assert torch.allclose(moved, step - lr * slope, rtol=1e-6)


@given(st.floats(-500, 80))
def test_a_trained_step_is_never_zero(log_gain):
    assert trained_step(torch.tensor(1.0), torch.tensor(log_gain)) >= SMALLEST_STEP
