"""What `bench diloco` compares with: the same training in plain torch, nothing of ours."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from tests.bench.charlm import CharGpt, Text, loss_of

LR, WARMUP, FLOOR, CLIP = 4e-3, 50, 0.1, 1.0
BETAS, DECAY = (0.9, 0.95), 0.1
OUTER_LR, MOMENTUM = 0.7, 0.9


@dataclass(frozen=True, slots=True)
class Size:
    """How long to train: steps of a replica, inner steps in a round, replicas, seed.

    `windows` of the validation text are looked at; None: all.
    """

    steps: int = 1600
    inner_steps: int = 50
    replicas: int = 4
    seed: int = 0
    windows: int | None = None

    @property
    def outer_steps(self) -> int:
        """Return the rounds of the run."""
        return self.steps // self.inner_steps


def data_parallel(text: Text, size: Size) -> float:
    """Train one model on the batches of all replicas at once; return its validation loss."""
    model, optimizer = _fresh(text, size)
    for step in range(size.steps):
        pairs = [text.batch(size.seed, step, worker) for worker in range(size.replicas)]
        inputs, targets = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        loss_of(model(inputs), targets).backward()
        _update(model, optimizer, step, size)
    return text.validation_loss(model, size.windows)


def diloco(text: Text, size: Size) -> float:
    """Train with DiLoCo, torch's optimizers inside and outside; return the anchor's loss."""
    replicas = [_fresh(text, size) for _ in range(size.replicas)]
    anchor, _ = _fresh(text, size)
    outer = torch.optim.SGD(anchor.parameters(), lr=OUTER_LR, momentum=MOMENTUM, nesterov=True)
    for step in range(size.steps):
        for worker, (model, optimizer) in enumerate(replicas):
            inputs, targets = text.batch(size.seed, step, worker)
            loss_of(model(inputs), targets).backward()
            _update(model, optimizer, step, size)
        if (step + 1) % size.inner_steps == 0:
            _outer_step(anchor, outer, [model for model, _ in replicas])
    return text.validation_loss(anchor, size.windows)


@torch.no_grad()
def _outer_step(anchor: nn.Module, outer: torch.optim.Optimizer, models: list[CharGpt]) -> None:
    locals_by_name = [dict(model.named_parameters()) for model in models]
    for name, param in anchor.named_parameters():
        param.grad = param - torch.stack([own[name] for own in locals_by_name]).mean(0)
    outer.step()
    for own in locals_by_name:
        for name, param in anchor.named_parameters():
            own[name].copy_(param)


def _fresh(text: Text, size: Size) -> tuple[CharGpt, torch.optim.Optimizer]:
    model = CharGpt(text.num_chars)
    model.seed(size.seed)
    params = [*model.parameters()]
    groups = [
        {"params": [param for param in params if param.ndim > 1], "weight_decay": DECAY},
        {"params": [param for param in params if param.ndim == 1], "weight_decay": 0.0},
    ]
    return model, torch.optim.AdamW(groups, lr=LR, betas=BETAS)


def _update(model: nn.Module, optimizer: torch.optim.Optimizer, step: int, size: Size) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    share = (step - WARMUP) / max(1, size.steps - WARMUP)
    factor = FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * share))
    for group in optimizer.param_groups:
        group["lr"] = LR * ((step + 1) / WARMUP if step < WARMUP else factor)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
