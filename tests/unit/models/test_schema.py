"""Schemas found without data or memory."""

from typing import Any

import pytest
import torch

from distqatd.base.errors import ConfigError
from distqatd.config.sections import DataConfig, ModelPipelineConfig, StageConfig
from distqatd.data.batches import open_dataset
from distqatd.models.registry import build_stage
from distqatd.models.schema import TensorShape, stage_schemas


def stages(name: str, *split: str, **options: Any) -> tuple[StageConfig, ...]:
    return tuple(
        StageConfig.model_validate({"model_name": f"{name}.{stage}", **options}) for stage in split
    )


def test_a_pipeline_is_described_stage_by_stage() -> None:
    pipeline = stages("mlp", "head", "body", "tail", sizes=[64, 32, 16, 10])
    sample = open_dataset(DataConfig(), 0, 8).sample_inputs(8)
    head, body, tail = stage_schemas(ModelPipelineConfig(pipeline=pipeline), sample)
    assert head.inputs == (TensorShape("float32", (8, 1, 8, 8)),)
    assert head.outputs == body.inputs == (TensorShape("float32", (8, 32)),)
    assert tail.outputs == (TensorShape("float32", (8, 10)),)
    assert (head.name, head.num_parameters, head.param_bytes) == ("mlp.head", 2080, 8320)
    assert head.outputs[0].nbytes == 8 * 32 * 4


@pytest.mark.parametrize(
    ("pipeline", "sample"),
    [
        (stages("resnet18", "front", "back", width=2), torch.rand(2, 3, 32, 32)),
        (
            stages("gpt2", "head", "body", "tail", vocab_size=9, n_embd=8, n_head=2, n_layer=1),
            torch.zeros(2, 5, dtype=torch.int64),
        ),
    ],
)
def test_the_schema_is_what_a_real_run_gives(
    pipeline: tuple[StageConfig, ...], sample: torch.Tensor
) -> None:
    values = (sample,)
    for config, schema in zip(pipeline, stage_schemas(pipeline, values), strict=True):
        stage = build_stage(config, 0, pipeline=pipeline)
        assert tuple(map(TensorShape.of, values)) == schema.inputs
        values = stage(*values)
        assert tuple(map(TensorShape.of, values)) == schema.outputs
        assert schema.num_parameters == sum(p.numel() for p in stage.parameters())


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        (stages("resnet18", "full"), r"resnet18.full cannot take.*float32 \(4, 1, 8, 8\)"),
        (stages("mlp", "full", sizes=[32, 10]), "mlp.full cannot take"),
        (stages("gpt2", "full", n_layer=1), "gpt2.full cannot take"),
    ],
)
def test_a_model_that_does_not_fit_the_data_is_refused(
    pipeline: tuple[StageConfig, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        stage_schemas(pipeline, open_dataset(DataConfig(), 0, 4).sample_inputs(4))


def test_a_sequence_longer_than_the_model_knows_is_refused_with_the_fix() -> None:
    pipeline = stages("gpt2", "full", n_positions=4, n_layer=1, n_embd=8, n_head=2)
    with pytest.raises(ConfigError, match=r"5 tokens does not fit n_positions 4.*data.seq_len"):
        stage_schemas(pipeline, (torch.zeros(1, 5, dtype=torch.int64),))
