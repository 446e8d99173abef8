"""Tasks: how outputs of the last stage are compared with targets."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from distqatd.base.errors import ConfigError


class Task(Protocol):
    """Loss and metrics of a kind of data. Pure functions of tensors on one device."""

    def loss(self, outputs: tuple[Tensor, ...], targets: tuple[Tensor, ...]) -> Tensor:
        """Return the scalar to minimise, float32: a mean, so that it does not grow with size."""
        ...

    def metrics(self, outputs: tuple[Tensor, ...], targets: tuple[Tensor, ...]) -> dict[str, float]:
        """Return sums that add up over batches, among them `count`, what to divide them by."""
        ...


@dataclass(frozen=True, slots=True)
class Classification:
    """Pick one of C classes per target: an image's label, or the next token at each position.

    Shapes: outputs[0] float (B, ..., C), targets[0] int64 (B, ...). The mean is over all targets,
    so over tokens for text. Computed in float32 whatever the outputs' dtype.
    """

    def loss(self, outputs: tuple[Tensor, ...], targets: tuple[Tensor, ...]) -> Tensor:
        """Return the mean cross entropy in nats."""
        logits, labels = _flat(outputs, targets)
        return cross_entropy(logits, labels)

    def metrics(self, outputs: tuple[Tensor, ...], targets: tuple[Tensor, ...]) -> dict[str, float]:
        """Return sums `loss` (cross entropy) and `correct` (first choice is right) of `count`."""
        with torch.no_grad():
            logits, labels = _flat(outputs, targets)
            return {
                "loss": cross_entropy(logits, labels, reduction="sum").item(),
                "correct": float((logits.argmax(1) == labels).sum().item()),
                "count": float(labels.numel()),
            }


TASKS: dict[str, Task] = {
    "cv": Classification(),
    "llm": Classification(),
    "nlp": Classification(),
}
"""Tasks by `data.task_type`."""


def task(task_type: str) -> Task:
    """Return the task called `task_type`.

    Raises:
        ConfigError: it is not one of TASKS.
    """
    if task_type not in TASKS:
        raise ConfigError(
            f"data.task_type {task_type!r} cannot be trained; use one of {', '.join(TASKS)}"
        )
    return TASKS[task_type]


def _flat(outputs: tuple[Tensor, ...], targets: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    return outputs[0].flatten(0, -2).float(), targets[0].flatten()
