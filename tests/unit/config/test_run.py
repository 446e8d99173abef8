"""What peers of a run share."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distqatd.base.errors import ConfigError
from distqatd.config.run import MAX_RUN_BYTES, dump_run, load_run, run_differences, run_digest
from distqatd.config.sections import (
    RUN_WIDE,
    Config,
    DilocoConfig,
    ModelPipelineConfig,
    NetworkConfig,
    StageConfig,
)


def test_the_digest_ignores_what_is_local_to_a_machine() -> None:
    local = Config(device="cpu", network=NetworkConfig(port=1))
    assert run_digest(local) == run_digest(Config())
    assert run_digest(Config(seed=1)) != run_digest(Config())


def test_a_run_travels_and_leaves_the_local_part_alone() -> None:
    theirs = Config(seed=7, diloco=DilocoConfig(inner_steps=3), device="cuda")
    mine = load_run(Config(device="cpu"), dump_run(theirs))
    assert mine.device == "cpu"
    assert run_digest(mine) == run_digest(theirs)


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda key: key != "model_name"),
        st.one_of(st.integers(-9, 9), st.floats(allow_nan=False, allow_infinity=False), st.text()),
        max_size=3,
    )
)
def test_stage_options_survive_the_way_through_the_swarm(options: dict[str, object]) -> None:
    stage = StageConfig.model_validate({"model_name": "a.full", **options})
    config = Config(model_pipeline=ModelPipelineConfig(pipeline=(stage,)))
    assert run_digest(load_run(Config(), dump_run(config))) == run_digest(config)


def test_differences_name_key_and_both_values() -> None:
    theirs = Config(diloco=DilocoConfig(inner_steps=200))
    assert run_differences(Config(), theirs) == ("diloco.inner_steps: 50 here, 200 there",)
    assert run_differences(Config(), Config()) == ()


def test_a_stage_more_is_a_difference() -> None:
    stages = (*Config().model_pipeline.pipeline, StageConfig(model_name="a.b"))
    theirs = Config(model_pipeline=ModelPipelineConfig(pipeline=stages))
    assert run_differences(Config(), theirs) == (
        "model_pipeline.pipeline.2.model_name: nothing here, a.b there",
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 60_000,
        b" " * (MAX_RUN_BYTES + 1),
        json.dumps({**json.loads(dump_run(Config())), "network": {}}).encode(),
        json.dumps({**json.loads(dump_run(Config())), "seed": "x"}).encode(),
        dump_run(Config()).replace(b'"seed":0', b'"seed":NaN'),
    ],
)
def test_bytes_that_are_no_run_are_a_config_error(data: bytes) -> None:
    with pytest.raises(ConfigError):
        load_run(Config(), data)


def test_a_stage_option_that_is_not_finite_is_named() -> None:
    stage = StageConfig.model_validate({"model_name": "a.b", "x": float("nan")})
    with pytest.raises(ConfigError, match="stage option"):
        dump_run(Config(model_pipeline=ModelPipelineConfig(pipeline=(stage,))))


def test_every_run_wide_name_is_a_field() -> None:
    assert set(RUN_WIDE) <= set(Config.model_fields)
