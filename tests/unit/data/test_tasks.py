"""Losses and metrics."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from distqatd.base.errors import ConfigError
from distqatd.data.tasks import TASKS, task


@pytest.mark.parametrize("shape", [(6,), (2, 3)])
def test_loss_is_the_mean_over_targets_and_metrics_are_its_sums(shape: tuple[int, ...]) -> None:
    logits = torch.randn(*shape, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(6).reshape(shape) % 5
    expected = cross_entropy(logits.reshape(6, 5), labels.reshape(6))
    sums = task("llm").metrics((logits,), (labels,))
    torch.testing.assert_close(task("llm").loss((logits,), (labels,)), expected)
    assert sums["loss"] / sums["count"] == pytest.approx(expected.item())
    assert sums["count"] == 6


def test_correct_counts_first_choices() -> None:
    logits = torch.tensor([[0.0, 2.0], [3.0, 1.0], [0.0, 1.0]])
    sums = task("cv").metrics((logits,), (torch.tensor([1, 0, 0]),))
    assert sums["correct"] == 2


def test_low_precision_logits_are_compared_in_float32() -> None:
    loss = task("cv").loss((torch.zeros(2, 3, dtype=torch.bfloat16),), (torch.tensor([0, 1]),))
    assert loss.dtype == torch.float32


def test_an_unknown_task_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="'sums'.*" + ", ".join(TASKS)):
        task("sums")
