"""Comparing chains of stages with a whole model that has the same weights."""

import os
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from distqatd.models.units import Stage, Unit

TOLERANCE = 1e-5

Tensors = tuple[Tensor, ...]
Gradients = tuple[Tensor | None, ...]


def import_transformers() -> ModuleType:
    """Import the oracle, kept off the network; its import warns about packages it cannot find."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("transformers")
        for name in (
            "GPT2LMHeadModel",
            "GPTNeoForCausalLM",
            "ResNetForImageClassification",
            "Wav2Vec2ForCTC",
            "Wav2Vec2ForSequenceClassification",
        ):
            getattr(module, name)  # imports are lazy
    return module


def chain(stages: Sequence[Stage], inputs: Tensors) -> tuple[Tensors, Callable[[Gradients], None]]:
    """Run stages as peers do, detached at each boundary; return the outputs and their backward."""
    values: Tensors = inputs
    ends: list[tuple[Tensors, Tensors]] = []
    for index, stage in enumerate(stages):
        leaves = tuple(value.detach() for value in values)
        for leaf in leaves:
            leaf.requires_grad_(index > 0 and leaf.is_floating_point())
        values = stage(*leaves)
        ends.append((leaves, values))

    def backward(gradients: Gradients) -> None:
        for leaves, outputs in reversed(ends):
            pairs = [
                (output, gradient)
                for output, gradient in zip(outputs, gradients, strict=True)
                if gradient is not None and output.requires_grad
            ]
            torch.autograd.backward(*map(list, zip(*pairs, strict=True)))
            gradients = tuple(leaf.grad for leaf in leaves)

    return values, backward


def load(units: Sequence[Unit], bounds: Sequence[int], state: dict[str, Tensor]) -> list[Stage]:
    """Return the stages between `bounds`, with the weights of `state`."""
    stages = [Stage("test.part", units[start:stop], seed=0) for start, stop in pairwise(bounds)]
    for stage in stages:
        stage.load_global_state_dict(state)
    return stages


def check_cuts(
    oracle: nn.Module,
    units: Sequence[Unit],
    inputs: Tensors,
    run: Callable[[nn.Module], Tensor],
    every: int = 1,
) -> None:
    """Compare outputs, gradients and buffers, training: at every cut, uncut, and cut everywhere.

    Args:
        oracle: the whole model; its weights become those of the stages.
        units: the model of ours.
        inputs: of the first stage.
        run: what the oracle makes of them, to be compared with the first output of the chain.
        every: distance of the single cuts; with a deep model, the cut everywhere must do.
    """
    assert oracle.training
    initial = {name: tensor.clone() for name, tensor in oracle.state_dict().items()}
    expected = run(oracle)
    gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    expected.backward(gradient)
    gradients = {name: parameter.grad for name, parameter in oracle.named_parameters()}
    after = oracle.state_dict()
    ends = len(units)
    for bounds in (
        (0, ends),
        *((0, at, ends) for at in range(1, ends, every)),
        tuple(range(ends + 1)),
    ):
        stages = load(units, bounds, initial)
        assert all(stage.training for stage in stages)
        outputs, backward = chain(stages, inputs)
        close(outputs[0], expected)
        backward((gradient, *(None for _ in outputs[1:])))
        check_stages(stages, gradients, after)


def check_stages(
    stages: Sequence[Stage], gradients: dict[str, Tensor | None], after: dict[str, Tensor]
) -> None:
    """Check that stages have every gradient and buffer of the oracle, each once."""
    names: list[str] = []
    for stage in stages:
        for local_name, parameter in stage.named_parameters():
            expected = gradients[stage.global_name(local_name)]
            assert expected is not None
            close(parameter.grad, expected)
        for name, tensor in stage.global_state_dict().items():
            close(tensor, after[name])
            names.append(name)
    assert sorted(names) == sorted(after)


def close(actual: Tensor | None, expected: Tensor) -> None:
    """Compare with the tolerance that all oracles share."""
    torch.testing.assert_close(actual, expected.detach(), atol=TOLERANCE, rtol=TOLERANCE)
