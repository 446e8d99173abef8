"""The outer step equals torch's SGD, and gives the same bits however the vector is cut."""

import pytest
import torch

from distqatd.base.errors import CheckpointError, NonFinite
from distqatd.config.sections import OuterOptimConfig
from distqatd.optim.outer import OuterOptimizer, pseudo_gradient


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
        anchor = outer.step(anchor, gradient)
        torch.testing.assert_close(anchor, param.detach(), rtol=1e-5, atol=1e-5)


def test_cutting_the_vector_anywhere_changes_no_bit():
    num_params = 1003
    whole = OuterOptimizer(OuterOptimConfig(), num_params)
    anchor = torch.randn(num_params, generator=torch.Generator().manual_seed(0))
    cuts = [(0, 1), (1, 18), (18, 500), (500, num_params)]
    parts = [OuterOptimizer(OuterOptimConfig(), end - begin) for begin, end in cuts]
    pieces = [anchor[begin:end].clone() for begin, end in cuts]
    for gradient in gradients(10, num_params):
        anchor = whole.step(anchor, gradient)
        pieces = [
            part.step(piece, gradient[begin:end])
            for part, piece, (begin, end) in zip(parts, pieces, cuts, strict=True)
        ]
    assert torch.equal(anchor, torch.cat(pieces))


def test_a_step_writes_to_none_of_the_tensors_it_was_given_or_gave_before():
    outer = OuterOptimizer(OuterOptimConfig(), 8)
    anchor, gradient = torch.ones(8), torch.full((8,), 0.5)
    momentum = outer.state_tensors()["momentum"]
    outer.step(anchor, gradient)
    assert torch.equal(anchor, torch.ones(8))
    assert torch.equal(gradient, torch.full((8,), 0.5))
    assert torch.equal(momentum, torch.zeros(8))


def test_state_moves_to_another_optimizer():
    first, second = OuterOptimizer(OuterOptimConfig(), 5), OuterOptimizer(OuterOptimConfig(), 5)
    anchor = first.step(torch.zeros(5), torch.ones(5))
    second.load_state(first.state_tensors())
    assert torch.equal(first.step(anchor, torch.ones(5)), second.step(anchor, torch.ones(5)))


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
