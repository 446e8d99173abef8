"""Losses and metrics."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from distqatd.base.errors import ComputeError, ConfigError
from distqatd.data.source import IGNORED
from distqatd.data.tasks import TASKS, best_path, task


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


def test_ignored_targets_count_neither_in_loss_nor_metrics() -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[1, IGNORED, 2], [IGNORED, IGNORED, 4]])
    counted = labels != IGNORED
    expected = cross_entropy(logits[counted], labels[counted])
    sums = task("node_pred").metrics((logits,), (labels,))
    torch.testing.assert_close(task("node_pred").loss((logits,), (labels,)), expected)
    assert sums["count"] == 3
    assert sums["loss"] / 3 == pytest.approx(expected.item())


def spoken(path: list[int], size: int = 4) -> torch.Tensor:
    """Return logits (T, V) that say `path`."""
    return 9 * torch.eye(size)[path]


def test_a_transcript_is_right_after_repeats_and_blanks_are_dropped() -> None:
    logits = torch.stack([spoken([0, 1, 1, 0, 1, 2]), spoken([3, 3, 0, 0, 2, 2])])
    frames = torch.tensor([6, 3])
    labels = torch.tensor([[1, 1, 2], [3, IGNORED, IGNORED]])
    assert best_path(logits, frames) == [[1, 1, 2], [3]]
    sums = task("speech").metrics((logits, frames), (labels,))
    assert (sums["correct"], sums["count"]) == (2, 2)
    loss = task("speech").loss((logits, frames), (labels,))
    assert loss.item() == pytest.approx(sums["loss"] / 2)
    assert loss.item() < 0.1


def test_the_gradient_of_a_transcript_reaches_the_frames_that_count_alone() -> None:
    logits = torch.zeros(1, 5, 4, requires_grad=True)
    task("speech").loss((logits, torch.tensor([3])), (torch.tensor([[1, 2]]),)).backward()
    assert logits.grad is not None
    assert logits.grad[0, :3].abs().sum() > 0
    assert logits.grad[0, 3:].abs().sum() == 0


def test_speech_with_labels_is_classified() -> None:
    logits, labels = torch.zeros(3, 4), torch.tensor([0, 1, 2])
    assert task("speech").loss((logits,), (labels,)).item() == pytest.approx(1.386, abs=1e-3)
    with pytest.raises(ComputeError, match="3"):
        task("speech").loss((logits, logits, logits), (labels,))


def test_denoising_is_the_mean_squared_error_over_images() -> None:
    noise = torch.zeros(2, 1, 2, 2)
    guess = torch.stack([torch.ones(1, 2, 2), 3 * torch.ones(1, 2, 2)])
    assert task("image_gen").loss((guess,), (noise,)).item() == 5
    assert task("image_gen").metrics((guess,), (noise,)) == {"loss": 10, "count": 2}


def test_a_policy_regrets_what_the_best_action_earns_more() -> None:
    returns = torch.tensor([[1.0, 5.0], [2.0, 2.0], [7.0, 1.0]])
    sure = torch.tensor([[0.0, 50.0], [50.0, 0.0], [0.0, 50.0]])
    sums = task("rl").metrics((sure,), (returns,))
    assert sums["loss"] == pytest.approx(6)
    assert (sums["correct"], sums["count"]) == (2, 3)
    unsure = torch.zeros(3, 2, requires_grad=True)
    task("rl").loss((unsure,), (returns,)).backward()
    assert unsure.grad is not None
    assert (unsure.grad[0] * torch.tensor([1, -1]) > 0).all()


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_documented_task_can_be_trained(name: str) -> None:
    assert task(name)
