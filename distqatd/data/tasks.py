"""Tasks: how outputs of the last stage are compared with targets."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, ctc_loss, mse_loss

from distqatd.base.errors import ComputeError, ConfigError
from distqatd.data.source import IGNORED

Tensors = tuple[Tensor, ...]


class Task(Protocol):
    """Loss and metrics of a kind of data. Pure functions of tensors on one device."""

    def loss(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Return the scalar to minimise, float32: a mean, so that it does not grow with size."""
        ...

    def metrics(self, outputs: Tensors, targets: Tensors) -> dict[str, float]:
        """Return sums that add up over batches, among them `count`, what to divide them by."""
        ...


@dataclass(frozen=True, slots=True)
class Classification:
    """Pick one of C classes per target: an image's or node's label, or each next token.

    Shapes: outputs[0] float (B, ..., C), targets[0] int64 (B, ...). The mean is over all targets
    that are not IGNORED, so over tokens for text. Computed in float32 whatever the outputs' dtype.
    """

    def loss(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Return the mean cross entropy in nats."""
        logits, labels = _flat(outputs, targets)
        return cross_entropy(logits, labels, ignore_index=IGNORED)

    def metrics(self, outputs: Tensors, targets: Tensors) -> dict[str, float]:
        """Return sums `loss` (cross entropy) and `correct` (first choice is right) of `count`."""
        with torch.no_grad():
            logits, labels = _flat(outputs, targets)
            losses = cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
            return {
                "loss": losses.item(),
                "correct": float((logits.argmax(1) == labels).sum().item()),
                "count": float((labels != IGNORED).sum().item()),
            }


@dataclass(frozen=True, slots=True)
class Transcription:
    """Write down what is said, without knowing when: connectionist temporal classification.

    Shapes: outputs float (B, T, V) and int64 (B,), the frames that count; targets int64 (B, L),
    padded with IGNORED; character 0 is the blank. [source: Graves et al., ICML 2006]
    """

    def loss(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Return the mean loss per character in nats; samples too short to be said count 0."""
        losses, lengths = _ctc(outputs, targets)
        return (losses / lengths.clamp_min(1)).mean()

    def metrics(self, outputs: Tensors, targets: Tensors) -> dict[str, float]:
        """Return `loss`, and `correct`: transcripts without any error, of `count` recordings."""
        with torch.no_grad():
            losses, lengths = _ctc(outputs, targets)
            rows = zip(best_path(*outputs), targets[0], lengths.tolist(), strict=True)
            right = sum(found == row[:length].tolist() for found, row, length in rows)
            return {
                "loss": (losses / lengths.clamp_min(1)).sum().item(),
                "correct": float(right),
                "count": float(len(lengths)),
            }


@dataclass(frozen=True, slots=True)
class Speech:
    """Transcription where the model says how many frames count, else classification."""

    def loss(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Return the loss of what the model's head is made for."""
        return _speech_task(outputs).loss(outputs, targets)

    def metrics(self, outputs: Tensors, targets: Tensors) -> dict[str, float]:
        """Return the metrics of what the model's head is made for."""
        return _speech_task(outputs).metrics(outputs, targets)


@dataclass(frozen=True, slots=True)
class Denoising:
    """Predict the noise in an image: outputs[0] and targets[0] are float (B, C, H, W).

    [source: Ho et al., arXiv:2006.11239, eq. 14]
    """

    def loss(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Return the mean squared error."""
        return mse_loss(outputs[0].float(), targets[0])

    def metrics(self, outputs: Tensors, targets: Tensors) -> dict[str, float]:
        """Return the sum `loss` of the images' mean squared errors, and `count`, the images."""
        with torch.no_grad():
            errors = (outputs[0].float() - targets[0]).square().flatten(1).mean(1)
            return {"loss": errors.sum().item(), "count": float(len(errors))}


@dataclass(frozen=True, slots=True)
class Improvement:
    """Prefer the actions that earn more: outputs[0] logits (B, A), targets[0] returns (B, A).

    The loss is what the policy earns less, in expectation, than the best action would; its
    gradient is the policy gradient with all actions of a state.
    [source: Sutton and Barto, Reinforcement Learning, 2nd edition, section 13.3, eq. 13.7]
    """

    def loss(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Return the mean expected regret."""
        return _regrets(outputs, targets).mean()

    def metrics(self, outputs: Tensors, targets: Tensors) -> dict[str, float]:
        """Return sums `loss` and `correct` (the preferred action is a best one) of `count`."""
        with torch.no_grad():
            returns, choice = targets[0], outputs[0].argmax(1, keepdim=True)
            best = returns.gather(1, choice).squeeze(1) >= returns.amax(1)
            return {
                "loss": _regrets(outputs, targets).sum().item(),
                "correct": float(best.sum().item()),
                "count": float(len(returns)),
            }


TASKS: dict[str, Task] = {
    "cv": Classification(),
    "llm": Classification(),
    "nlp": Classification(),
    "speech": Speech(),
    "image_gen": Denoising(),
    "node_pred": Classification(),
    "rl": Improvement(),
}
"""Tasks by `data.task_type`; `nlp` is the documents' other word for `llm`."""


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


def best_path(logits: Tensor, frames: Tensor) -> list[list[int]]:
    """Return each recording's likeliest characters: repeats merged, then blanks dropped.

    Args:
        logits: float (B, T, V).
        frames: int64 (B,), how many of the T count.
    """
    paths = (row[:count] for row, count in zip(logits.argmax(2), frames.tolist(), strict=True))
    merged = (torch.unique_consecutive(path) for path in paths)
    return [path[path != 0].tolist() for path in merged]


def _flat(outputs: Tensors, targets: Tensors) -> tuple[Tensor, Tensor]:
    return outputs[0].flatten(0, -2).float(), targets[0].flatten()


def _ctc(outputs: Tensors, targets: Tensors) -> tuple[Tensor, Tensor]:
    """Return the loss of each recording in nats, and its number of characters."""
    logits, frames = outputs
    labels = targets[0]
    lengths = (labels != IGNORED).sum(1)
    scores = logits.float().log_softmax(2).transpose(0, 1)
    losses = ctc_loss(
        scores, labels.clamp_min(0), frames, lengths, reduction="none", zero_infinity=True
    )
    return losses, lengths


def _speech_task(outputs: Tensors) -> Task:
    kinds: dict[int, Callable[[], Task]] = {1: Classification, 2: Transcription}
    if len(outputs) not in kinds:
        raise ComputeError(f"a speech model gives 1 or 2 outputs, not {len(outputs)}")
    return kinds[len(outputs)]()


def _regrets(outputs: Tensors, targets: Tensors) -> Tensor:
    chances, returns = outputs[0].float().softmax(1), targets[0]
    return (chances * (returns.amax(1, keepdim=True) - returns)).sum(1)
