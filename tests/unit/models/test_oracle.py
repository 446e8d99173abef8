"""ResNet-18 and GPT-2 against transformers with the same weights, at every cut."""

import os
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distqatd.models.gpt2 import GPT2, Gpt2Options
from distqatd.models.resnet import RESNET18, ResNetOptions
from distqatd.models.units import Stage, Unit

TOLERANCE = 1e-5
GPT2_OPTIONS = Gpt2Options(
    vocab_size=61, n_positions=16, n_embd=24, n_head=3, n_layer=3, dropout=0.0
)
RESNET_OPTIONS = ResNetOptions(num_classes=7, num_channels=2, width=4)


@pytest.fixture(scope="module")
def transformers() -> ModuleType:
    """The oracle, kept off the network; its import warns about packages it cannot find."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("transformers")
        module.GPT2LMHeadModel, module.ResNetForImageClassification  # noqa: B018  lazy imports
    return module


def gpt2_oracle(transformers: ModuleType) -> nn.Module:
    options = GPT2_OPTIONS
    config = transformers.GPT2Config(
        **options.model_dump(exclude={"dropout"}),
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=False,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config)


def resnet_oracle(transformers: ModuleType) -> nn.Module:
    width = RESNET_OPTIONS.width
    config = transformers.ResNetConfig(
        num_channels=RESNET_OPTIONS.num_channels,
        embedding_size=width,
        hidden_sizes=[width, 2 * width, 4 * width, 8 * width],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        num_labels=RESNET_OPTIONS.num_classes,
    )
    return transformers.ResNetForImageClassification(config)


def chain(stages: Sequence[Stage], inputs: Tensor) -> tuple[Tensor, Callable[[Tensor], None]]:
    """Run stages as peers do, detached at each boundary; return the output and its backward."""
    values, ends = inputs, []
    for stage in stages:
        start = values.detach()
        start.requires_grad_(bool(ends))
        (values,) = stage(start)
        ends.append((start, values))

    def backward(gradient: Tensor) -> None:
        for start, end in reversed(ends):
            end.backward(gradient)
            gradient = start.grad  # None only after the first stage

    return values, backward


def cut(units: Sequence[Unit], at: int, state: dict[str, Tensor]) -> list[Stage]:
    parts = [part for part in (units[:at], units[at:]) if part]
    stages = [Stage("test.part", part, seed=0) for part in parts]
    for stage in stages:
        stage.load_global_state_dict(state)
    return stages


def check_cuts(oracle: nn.Module, units: Sequence[Unit], inputs: Tensor) -> None:
    initial = {name: tensor.clone() for name, tensor in oracle.state_dict().items()}
    expected: Tensor = oracle(inputs).logits
    gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    expected.backward(gradient)
    gradients = {name: parameter.grad for name, parameter in oracle.named_parameters()}
    after = oracle.state_dict()
    for at in range(len(units)):
        stages = cut(units, at, initial)
        output, backward = chain(stages, inputs)
        backward(gradient)
        close(output, expected)
        check_stages(stages, gradients, after)


def check_stages(
    stages: Sequence[Stage], gradients: dict[str, Any], after: dict[str, Tensor]
) -> None:
    names: list[str] = []
    for stage in stages:
        for local_name, parameter in stage.named_parameters():
            close(parameter.grad, gradients[stage.global_name(local_name)])
        for name, tensor in stage.global_state_dict().items():
            close(tensor, after[name])
            names.append(name)
    assert sorted(names) == sorted(after)


def close(actual: Tensor | None, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected.detach(), atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.filterwarnings("ignore")
def test_gpt2_equals_transformers_at_every_cut(transformers: ModuleType) -> None:
    tokens = torch.randint(0, 61, (3, 11), generator=torch.Generator().manual_seed(0))
    check_cuts(gpt2_oracle(transformers), GPT2.units(GPT2_OPTIONS), tokens)


@pytest.mark.filterwarnings("ignore")
def test_resnet18_equals_transformers_at_every_cut(transformers: ModuleType) -> None:
    images = torch.randn(4, 2, 48, 48, generator=torch.Generator().manual_seed(0))
    check_cuts(resnet_oracle(transformers), RESNET18.units(RESNET_OPTIONS), images)


@pytest.mark.filterwarnings("ignore")
def test_our_initial_weights_load_into_transformers(transformers: ModuleType) -> None:
    stage = Stage("gpt2.full", GPT2.units(GPT2_OPTIONS), seed=0)
    oracle = gpt2_oracle(transformers)
    oracle.load_state_dict(stage.global_state_dict(), strict=True)
    tokens = torch.arange(10).unsqueeze(0)
    close(stage(tokens)[0], oracle(tokens).logits)


@pytest.mark.filterwarnings("ignore")
def test_initial_weights_spread_as_those_of_transformers(transformers: ModuleType) -> None:
    for oracle, units in (
        (gpt2_oracle(transformers), GPT2.units(GPT2_OPTIONS)),
        (resnet_oracle(transformers), RESNET18.units(RESNET_OPTIONS)),
    ):
        theirs = oracle.state_dict()
        for name, tensor in Stage("test.full", units, seed=0).global_state_dict().items():
            if tensor.is_floating_point() and tensor.numel() > 500:
                assert tensor.std().item() == pytest.approx(theirs[name].std().item(), rel=0.15), (
                    name
                )
