"""Every field is a flag."""

import argparse

import pytest

from distqatd.config.flags import add_config_flags, flag_names
from distqatd.config.load import load
from distqatd.config.sections import Config
from distqatd.config.tree import leaves


def config_of(*arguments: str) -> Config:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_config_flags(parser)
    return load(overrides=parser.parse_args(arguments).overrides).config


def test_every_field_has_a_flag_of_its_own() -> None:
    names = [name for leaf in leaves() for name in flag_names(leaf)]
    assert len(names) == len(set(names))
    assert "--diloco-inner-optim-adam-lr" in names
    assert "--no-param-mirror-enable" in names


@pytest.mark.parametrize(
    ("arguments", "path", "value"),
    [
        (["--diloco-batch-size-per-step", "1"], "diloco.batch_size_per_step", 1),
        (["--diloco-batch-size-per-step", "auto"], "diloco.batch_size_per_step", 0),
        (["--device", "cpu"], "device", "cpu"),
        (["--stage", "tail"], "compute.stage", "tail"),
        (["--num-experts", "2"], "compute.num_experts", 2),
        (["--num-servers", "2"], "compute.num_experts", 2),
        (["--port", "0"], "network.port", 0),
        (["--api-port=-1"], "network.api_port", -1),
        (["--public-ip", "1.2.3.4"], "network.public_ip", "1.2.3.4"),
        (["--announce", "a:1,b:2"], "network.announce", ("a:1", "b:2")),
        (["--join", "a", "--initial-peers", "b,c"], "network.join", ("a", "b", "c")),
        (["--diloco-inner-optim-adam-lr", "4e-4"], "diloco.inner_optim.adam_lr", 4e-4),
        (["--param-mirror-enable"], "param_mirror.enable", True),
        (["--disable-quant"], "quant.enable", False),
        (["--quant-weights-bits", "4"], "quant.weights.bits", 4),
        (["--no-diloco-outer-optim-sgd-nesterov"], "diloco.outer_optim.sgd_nesterov", False),
        (["--set", "seed=1", "--seed", "2"], "seed", 2),
        (["--seed", "2", "--set", "seed=1"], "seed", 1),
        (["--wandb-project", "none"], "wandb_project", None),
    ],
)
def test_a_flag_sets_its_field(arguments: list[str], path: str, value: object) -> None:
    found: object = config_of(*arguments)
    for part in path.split("."):
        found = getattr(found, part)
    assert found == value


def test_a_pipeline_can_be_given_as_yaml() -> None:
    config = config_of("--model-pipeline-pipeline", "[{model_name: mlp.full, hidden: 8}]")
    assert config.model_pipeline.pipeline[0].options == {"hidden": 8}
