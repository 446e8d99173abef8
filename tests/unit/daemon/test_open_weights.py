"""Whose weights a daemon reads."""

from pathlib import Path

import pytest
from safetensors.torch import save_file

from distqatd.base.errors import CheckpointError
from distqatd.config.sections import ComputeConfig, Config, ModelPipelineConfig, StageConfig
from distqatd.daemon.compute_roles import open_weights
from distqatd.models.registry import build_stage

STAGE = StageConfig(model_name="mlp.full")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "w.safetensors"
    save_file(build_stage(STAGE, 0).global_state_dict(), path)
    return path


def config(weights: Path | None, here: Path | None = None) -> Config:
    pipeline = ModelPipelineConfig(pipeline=(STAGE,), weights=str(weights) if weights else None)
    return Config(model_pipeline=pipeline, compute=ComputeConfig(weights=here))


def test_a_run_without_weights_opens_none(file: Path) -> None:
    assert open_weights(config(None), is_ours=True) is None
    assert open_weights(config(None, here=file), is_ours=True) is None


def test_a_path_that_was_given_on_this_machine_is_read(file: Path) -> None:
    opened = open_weights(config(file), is_ours=True)
    assert opened is not None
    assert opened.path == file


def test_a_path_that_only_the_swarm_names_is_not_read(file: Path) -> None:
    assert open_weights(config(file), is_ours=False) is None


def test_the_machine_may_say_where_it_has_them(file: Path) -> None:
    opened = open_weights(config(Path("/theirs/w"), here=file), is_ours=False)
    assert opened is not None
    assert opened.path == file


def test_what_is_no_file_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a safetensors file nor a folder"):
        open_weights(config(tmp_path / "nowhere"), is_ours=True)
