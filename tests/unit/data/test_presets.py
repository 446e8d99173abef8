"""The configurations that come with DistQat fit models and data."""

import pytest

from distqatd.config.load import load
from distqatd.data.batches import open_dataset
from distqatd.data.tasks import task
from distqatd.models.registry import build_stage, check_pipeline
from distqatd.models.schema import stage_schemas


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [("digits", [42_608, 658_570]), ("gpt_bytes", [20_480, 149_952, 16_512])],
)
def test_a_preset_has_data_a_model_that_fits_it_and_a_task(
    preset: str, parameters: list[int]
) -> None:
    config = load([preset]).config
    batch_size = config.diloco.batch_size_per_step
    dataset = open_dataset(config.data, config.seed, batch_size)
    schemas = stage_schemas(config.model_pipeline, dataset.sample_inputs(batch_size))
    assert [schema.num_parameters for schema in schemas] == parameters
    assert schemas[-1].outputs[0].shape[-1] == dataset.num_classes
    assert task(config.data.task_type)
    assert batch_size % config.diloco.num_microbatches == 0


@pytest.mark.parametrize("preset", ["spoken", "diffusion_digits", "karate", "cartpole"])
def test_a_quick_preset_is_trained_in_stages_on_what_it_reads(preset: str) -> None:
    config = load([preset]).config
    batch_size = config.diloco.batch_size_per_step
    dataset = open_dataset(config.data, config.seed, batch_size)
    batch = dataset.batch(0)
    values = batch.inputs
    stages = config.model_pipeline.pipeline
    for stage in stages:
        values = build_stage(stage, seed=0, pipeline=stages)(*values)
    loss = task(config.data.task_type).loss(values, batch.targets)
    loss.backward()
    assert len(stages) >= 2
    assert 0 < loss.item() < 10
    assert dataset.num_classes in values[0].shape


def test_the_documents_example_is_a_valid_pipeline() -> None:
    config = load(["resnet18"]).config
    assert [stage.name for stage in check_pipeline(config.model_pipeline.pipeline)] == [
        "resnet18.front",
        "resnet18.back",
    ]
    assert config.diloco.inner_optim.adam_lr == 4e-4
