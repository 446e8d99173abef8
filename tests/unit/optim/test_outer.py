"""The outer step equals torch's SGD, and gives the same bits however the vector is cut."""

import pytest
import torch

from distqatd.base.errors import CheckpointError, NonFinite
from distqatd.config.schedules import OuterRule
from distqatd.config.sections import OuterOptimConfig
from distqatd.optim.outer import OuterOptimizer, pseudo_gradient

RULE = OuterRule(0.7, 0.9)


def gradients(num_steps, num_params):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(num_params, generator=generator) for _ in range(num_steps)]


@pytest.mark.parametrize(("nesterov", "momentum"), [(True, 0.9), (False, 0.9), (False, 0.0)])
def test_it_follows_torch_sgd_to_rounding(nesterov, momentum):
    config = OuterOptimConfig(sgd_lr=0.7, sgd_momentum=momentum, sgd_nesterov=nesterov)
    anchor = torch.randn(1003, generator=torch.Generator().manual_seed(0))
    param = torch.nn.Parameter(anchor.clone())
    reference = torch.optim.SGD([param], lr=0.7, momentum=momentum, nesterov=nesterov)
    outer = OuterOptimizer(config, anchor.numel())
    for gradient in gradients(10, anchor.numel()):
        param.grad = gradient.clone()
        reference.step()
        anchor = outer.step(anchor, gradient, OuterRule(0.7, momentum), 1)
        torch.testing.assert_close(anchor, param.detach(), rtol=1e-5, atol=1e-5)


def test_it_follows_torch_adam_to_rounding():
    config = OuterOptimConfig(type="adam", adam_lr=0.05, adam_betas=(0.9, 0.95), adam_eps=1e-3)
    anchor = torch.randn(1003, generator=torch.Generator().manual_seed(0))
    param = torch.nn.Parameter(anchor.clone())
    reference = torch.optim.Adam([param], lr=0.05, betas=(0.9, 0.95), eps=1e-3)
    outer = OuterOptimizer(config, anchor.numel())
    for count, gradient in enumerate(gradients(10, anchor.numel()), 1):
        param.grad = gradient.clone()
        reference.step()
        anchor = outer.step(anchor, gradient, RULE, count)
        torch.testing.assert_close(anchor, param.detach(), rtol=1e-5, atol=1e-5)


def test_the_warm_start_averages_and_leaves_the_moments_alone():
    outer = OuterOptimizer(OuterOptimConfig(), 3)
    outer.step(torch.zeros(3), torch.ones(3), RULE, 1)
    before = outer.state_tensors()
    average = OuterRule(1.0, 0.0, is_warm_start=True)
    assert torch.equal(
        outer.step(torch.ones(3), torch.full((3,), 0.25), average, 0), torch.full((3,), 0.75)
    )
    assert outer.state_tensors() == before


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_cutting_the_vector_anywhere_changes_no_bit(kind):
    num_params, config = 1003, OuterOptimConfig(type=kind)
    whole = OuterOptimizer(config, num_params)
    anchor = torch.randn(num_params, generator=torch.Generator().manual_seed(0))
    cuts = [(0, 1), (1, 18), (18, 500), (500, num_params)]
    parts = [OuterOptimizer(config, end - begin) for begin, end in cuts]
    pieces = [anchor[begin:end].clone() for begin, end in cuts]
    for count, gradient in enumerate(gradients(10, num_params), 1):
        anchor = whole.step(anchor, gradient, RULE, count)
        pieces = [
            part.step(piece, gradient[begin:end], RULE, count)
            for part, piece, (begin, end) in zip(parts, pieces, cuts, strict=True)
        ]
    assert torch.equal(anchor, torch.cat(pieces))


def test_a_step_writes_to_none_of_the_tensors_it_was_given_or_gave_before():
    outer = OuterOptimizer(OuterOptimConfig(), 8)
    anchor, gradient = torch.ones(8), torch.full((8,), 0.5)
    momentum = outer.state_tensors()["momentum"]
    outer.step(anchor, gradient, RULE, 1)
    assert torch.equal(anchor, torch.ones(8))
    assert torch.equal(gradient, torch.full((8,), 0.5))
    assert torch.equal(momentum, torch.zeros(8))


def test_state_moves_to_another_optimizer():
    first, second = OuterOptimizer(OuterOptimConfig(), 5), OuterOptimizer(OuterOptimConfig(), 5)
    anchor = first.step(torch.zeros(5), torch.ones(5), RULE, 1)
    second.load_state(first.state_tensors())
    again = [outer.step(anchor, torch.ones(5), RULE, 2) for outer in (first, second)]
    assert torch.equal(*again)


@pytest.mark.parametrize("tensors", [{}, {"momentum": torch.zeros(4)}])
def test_state_of_another_size_is_refused(tensors):
    with pytest.raises(CheckpointError, match="momentum"):
        OuterOptimizer(OuterOptimConfig(), 5).load_state(tensors)


def test_a_pseudo_gradient_points_from_local_back_to_the_anchor():
    assert torch.equal(
        pseudo_gradient(torch.tensor([3.0]), torch.tensor([1.0])), torch.tensor([2.0])
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_diverged_replica_has_no_pseudo_gradient(bad):
    with pytest.raises(NonFinite):
        pseudo_gradient(torch.zeros(2), torch.tensor([0.0, bad]))
