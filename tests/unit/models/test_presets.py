"""The models of configs/: they fit their data, and the big ones run in stages on a CPU."""

import pytest
import torch
from torch import Tensor

from distqatd.config.layers import presets
from distqatd.config.load import load
from distqatd.config.sections import Config
from distqatd.data.tasks import task
from distqatd.models.registry import build_stage
from distqatd.models.schema import StageSchema, stage_schemas
from tests.support.oracles import chain

PARAMETERS = {
    "resnet18": 11_181_642,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "distilgpt2": 120_509_952,
    "distilgpt2_full": 120_509_952,
    "distilgpt2_split": 120_509_952,
    "gptneo": 163_795_968,
    "gptneo_full": 163_795_968,
    "wav2vec2": 94_577_060,
    "wav2vec2_full": 94_577_060,
}
"""As in transformers, with output layers that are not tied: one embedding more."""

BIG = ("resnet50", "resnet101", "distilgpt2_split", "gptneo", "wav2vec2")


def inputs(config: Config, batch_size: int, *, small: bool = False) -> tuple[Tensor, ...]:
    """Return random inputs as the data section says, or shorter ones."""
    generator = torch.Generator().manual_seed(0)
    data = config.data
    if data.task_type == "cv":
        side = 64 if small else data.img_size
        return (torch.randn(batch_size, data.num_channels, side, side, generator=generator),)
    if data.task_type == "nlp":
        shape = (batch_size, 16 if small else data.seq_len)
        return (torch.randint(0, 256, shape, generator=generator),)
    length = 4000 if small else data.audio_samples
    audio = torch.randn(batch_size, length, generator=generator)
    return audio, torch.linspace(length // 2, length, batch_size).long()


def targets(config: Config, tokens: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    if config.data.task_type == "nlp":
        return (tokens[0],)
    return (torch.arange(len(tokens[0])),)


def schemas(config: Config) -> tuple[StageSchema, ...]:
    sample = tuple(tensor.to("meta") for tensor in inputs(config, 2))
    return stage_schemas(config.model_pipeline, sample)


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_model_fits_its_data_and_has_the_published_size(name: str) -> None:
    assert sum(schema.num_parameters for schema in schemas(load([name]).config)) == PARAMETERS[name]


@pytest.mark.parametrize("name", sorted(presets()))
def test_batches_can_be_split_into_the_microbatches(name: str) -> None:
    diloco = load([name]).config.diloco
    assert diloco.batch_size_per_step % diloco.num_microbatches == 0


@pytest.mark.parametrize("name", BIG)
def test_a_big_model_goes_forward_and_backward_in_stages(name: str) -> None:
    config = load([name]).config
    pipeline = config.model_pipeline.pipeline
    stages = [build_stage(stage, 0, pipeline=pipeline) for stage in pipeline]
    given = inputs(config, 2, small=True)
    outputs, backward = chain(stages, given)
    leaves = tuple(output.detach().requires_grad_() for output in outputs)
    loss = task(config.data.task_type).loss(leaves, targets(config, given))
    loss.backward()
    backward(tuple(leaf.grad for leaf in leaves))
    assert loss.isfinite()
    for stage in stages:
        grads = [parameter.grad for parameter in stage.parameters()]
        assert all(grad is not None and bool(grad.isfinite().all()) for grad in grads)
        assert any(bool(grad.any()) for grad in grads if grad is not None)
