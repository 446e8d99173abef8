"""The optimizer of inner steps, from its section of the configuration."""

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from distqatd.base.errors import ConfigError
from distqatd.config.sections import InnerOptimConfig

_UNFIT = frozenset({"LBFGS", "SparseAdam"})
"""One evaluates the loss itself, one takes sparse gradients only."""

CLIP_EPS = 1e-6
"""Added to the norm that gradients are divided by, as in `torch.nn.utils.clip_grad_norm_`."""


def preload() -> None:
    """Have torch import what its first optimizer needs: 1.5 s of CPU that can be spent early."""
    SGD([nn.Parameter(torch.zeros(1))], lr=0.1)


def optimizer_names() -> tuple[str, ...]:
    """Return the classes of `torch.optim` that `inner_optim.type` may name."""
    found = inspect.getmembers(torch.optim, inspect.isclass)
    return tuple(
        name
        for name, cls in found
        if issubclass(cls, Optimizer) and cls is not Optimizer and name not in _UNFIT
    )


def make_inner_optimizer(params: Iterable[nn.Parameter], config: InnerOptimConfig) -> Optimizer:
    """Return the configured optimizer over those `params` that require a gradient.

    `foreach` gives the bits of torch's default loop in half the time or less (AdamW, 60 small
    tensors, one core: 1559 us to 753 us a step); `fused` is faster still, but rounds otherwise.

    Raises:
        ConfigError: no parameter requires a gradient, torch has no such optimizer, or it does
            not take these arguments.
    """
    trained = [param for param in params if param.requires_grad]
    if not trained:
        raise ConfigError("a stage without trainable parameters cannot be hosted; merge its units")
    cls, arguments = _class_and_arguments(config)
    try:
        return cls(_groups(trained, config), **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"inner_optim: {cls.__name__} refuses its arguments: {error}") from error


def check_inner_optimizer(config: InnerOptimConfig) -> None:
    """Check that the optimizer can be made and, if it is not one of ours, take a step.

    Raises:
        ConfigError: it cannot.
    """
    if config.type in ("sgd", "adam", "adamw") and not config.kwargs:
        _class_and_arguments(config)
        return
    param = nn.Parameter(torch.zeros(2, 2))
    optimizer = make_inner_optimizer([param], config)
    param.grad = torch.ones(2, 2)
    try:
        optimizer.step()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"inner_optim: {config.type} cannot take a step: {error}") from error


def clip(grads: Iterable[Tensor], norm: float, max_norm: float) -> None:
    """Scale gradients of Euclidean norm `norm` down to `max_norm`, in place; else leave them."""
    factor = max_norm / (norm + CLIP_EPS)
    if factor < 1.0:
        torch._foreach_mul_([*grads], factor)


def _class_and_arguments(config: InnerOptimConfig) -> tuple[type[Optimizer], dict[str, Any]]:
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in config.kwargs.items()}
    if config.type == "sgd":
        return SGD, _joined(_sgd(config), given, config.type)
    if config.type in ("adam", "adamw"):
        return (AdamW if config.type == "adamw" else Adam), _joined(
            _adam(config), given, config.type
        )
    if config.type not in optimizer_names():
        known = ", ".join(["sgd", "adam", "adamw", *optimizer_names()])
        raise ConfigError(f"inner_optim.type: no optimizer {config.type!r} here; there are {known}")
    cls: type[Optimizer] = getattr(torch.optim, config.type)
    return cls, given


def _sgd(config: InnerOptimConfig) -> dict[str, Any]:
    if config.sgd_nesterov and not config.sgd_momentum:
        raise ConfigError("inner_optim.sgd_nesterov needs sgd_momentum above 0")
    return {
        "lr": config.sgd_lr,
        "momentum": config.sgd_momentum,
        "nesterov": config.sgd_nesterov,
        "weight_decay": config.sgd_weight_decay,
    }


def _adam(config: InnerOptimConfig) -> dict[str, Any]:
    return {
        "lr": config.adam_lr,
        "betas": config.adam_betas,
        "eps": config.adam_eps,
        "weight_decay": config.adam_weight_decay,
    }


def _joined(named: dict[str, Any], given: dict[str, Any], kind: str) -> dict[str, Any]:
    twice = sorted(named.keys() & given.keys())
    if twice:
        prefix = "sgd" if kind == "sgd" else "adam"
        raise ConfigError(
            f"inner_optim.kwargs: {twice[0]} of {kind} is called {prefix}_{twice[0]} here"
        )
    return {"foreach": True, **named, **given}


def _groups(trained: list[nn.Parameter], config: InnerOptimConfig) -> Any:
    """Return the parameters, those of one dimension in a group without decay if asked for."""
    if not config.decay_matrices_only:
        return trained
    groups: list[dict[str, Any]] = [
        {"params": [param for param in trained if param.ndim > 1]},
        {"params": [param for param in trained if param.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
