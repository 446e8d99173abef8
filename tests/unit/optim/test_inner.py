"""The inner optimizer has the bits of torch's default one."""

import pytest
import torch
from torch import nn

from distqatd.base.errors import ConfigError
from distqatd.config.sections import InnerOptimConfig
from distqatd.optim.inner import (
    check_inner_optimizer,
    clip,
    make_inner_optimizer,
    optimizer_names,
)

CASES = {
    "sgd": (
        InnerOptimConfig(type="sgd", sgd_momentum=0.9, sgd_nesterov=True, sgd_weight_decay=1e-4),
        lambda params: torch.optim.SGD(
            params, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4
        ),
    ),
    "adam": (
        InnerOptimConfig(type="adam", adam_betas=(0.9, 0.95)),
        lambda params: torch.optim.Adam(params, lr=1e-3, betas=(0.9, 0.95)),
    ),
    "adamw": (
        InnerOptimConfig(type="adamw", adam_lr=4e-3, adam_weight_decay=0.1),
        lambda params: torch.optim.AdamW(params, lr=4e-3, weight_decay=0.1),
    ),
    "amsgrad": (
        InnerOptimConfig(type="adam", kwargs={"amsgrad": True}),
        lambda params: torch.optim.Adam(params, lr=1e-3, amsgrad=True),
    ),
    "by name": (
        InnerOptimConfig(type="RMSprop", kwargs={"lr": 1e-3, "momentum": 0.9, "centered": True}),
        lambda params: torch.optim.RMSprop(params, lr=1e-3, momentum=0.9, centered=True),
    ),
    "matrices": (
        InnerOptimConfig(adam_weight_decay=0.1, decay_matrices_only=True),
        lambda params: torch.optim.AdamW(
            [
                {"params": [param for param in params if param.ndim > 1], "weight_decay": 0.1},
                {"params": [param for param in params if param.ndim == 1], "weight_decay": 0.0},
            ],
            lr=1e-3,
        ),
    ),
}


def parameters():
    generator = torch.Generator().manual_seed(0)
    shapes = [(33, 5), (7,), (16, 3, 3, 3), (1,)]
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


@pytest.mark.parametrize("name", sorted(CASES))
def test_thirty_steps_are_bit_equal_to_torch(name):
    config, make_reference = CASES[name]
    ours, theirs = parameters(), parameters()
    optimizer, reference = make_inner_optimizer(ours, config), make_reference(theirs)
    generator = torch.Generator().manual_seed(1)
    for _ in range(30):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        optimizer.step()
        reference.step()
    assert all(torch.equal(mine, other) for mine, other in zip(ours, theirs, strict=True))


def test_frozen_parameters_are_left_out_and_none_at_all_is_refused():
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    optimizer = make_inner_optimizer([frozen, *parameters()], InnerOptimConfig())
    assert len(optimizer.param_groups[0]["params"]) == 4
    with pytest.raises(ConfigError, match="trainable"):
        make_inner_optimizer([frozen], InnerOptimConfig())


def test_nesterov_without_momentum_is_refused():
    with pytest.raises(ConfigError, match="sgd_momentum"):
        make_inner_optimizer(parameters(), InnerOptimConfig(type="sgd", sgd_nesterov=True))


@pytest.mark.parametrize("name", optimizer_names())
def test_every_optimizer_that_torch_has_can_be_named(name):
    check_inner_optimizer(InnerOptimConfig(type=name, kwargs={"lr": 0.01}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"type": "Adamm"}, "no optimizer 'Adamm' here; there are sgd, adam, adamw, ASGD"),
        ({"type": "LBFGS"}, "no optimizer 'LBFGS'"),
        ({"type": "Optimizer"}, "no optimizer 'Optimizer'"),
        ({"type": "RMSprop", "kwargs": {"lrr": 1}}, "RMSprop refuses its arguments: .*lrr"),
        ({"type": "RMSprop", "kwargs": {"lr": -1.0}}, "RMSprop refuses its arguments: .*-1"),
        ({"type": "RMSprop", "kwargs": {"lr": "fast"}}, "inner_optim: RMSprop"),
        ({"type": "adam", "kwargs": {"lr": 1.0}}, "lr of adam is called adam_lr here"),
        ({"type": "sgd", "kwargs": {"momentum": 0.5}}, "momentum of sgd is called sgd_momentum"),
        ({"type": "sgd", "kwargs": {"amsgrad": True}}, "SGD refuses its arguments: .*amsgrad"),
    ],
)
def test_what_torch_cannot_make_is_refused_in_words(values, message):
    with pytest.raises(ConfigError, match=message):
        check_inner_optimizer(InnerOptimConfig(**values))


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_clipping_is_that_of_torch(scale):
    ours, theirs = parameters(), parameters()
    for mine, other in zip(ours, theirs, strict=True):
        mine.grad, other.grad = mine.detach() * scale, other.detach() * scale
    norm = torch.nn.utils.clip_grad_norm_(theirs, 1.0)
    clip([param.grad for param in ours], norm.item(), 1.0)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)
