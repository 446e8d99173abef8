import pytest

from distqatd.base.errors import ConfigError
from distqatd.config.sections import Config, DataConfig
from distqatd.daemon.compute_roles import (
    build_trainer,
    check_data_source,
    open_batches,
    stage_needs,
)
from distqatd.models.registry import build_stage
from distqatd.roles.batches import OwnBatches
from distqatd.roles.data_feed import ServedBatches
from distqatd.roles.trainer import TrainerRole
from tests.support.contexts import World


@pytest.mark.parametrize("name", ["/etc/hostname", "~/.ssh/id_ed25519", "data.txt", "a/download"])
def test_a_path_that_only_the_swarm_names_is_refused_with_the_fix(name):
    with pytest.raises(ConfigError, match="not given on this machine") as failure:
        check_data_source(DataConfig(dataset_name=name), is_ours=False)
    assert f"--set data.dataset_name={name}" in str(failure.value)


def test_a_path_that_was_given_here_and_a_known_name_are_accepted():
    check_data_source(DataConfig(dataset_name="data.txt"), is_ours=True)
    check_data_source(DataConfig(dataset_name="digits"), is_ours=False)
    check_data_source(DataConfig(dataset_name="python_sources"), is_ours=False)


def test_a_tokenizer_is_a_path_too():
    data = DataConfig(dataset_name="python_sources", tokenizer="/etc/hostname")
    with pytest.raises(ConfigError, match=r"'/etc/hostname'.*not given on this"):
        check_data_source(data, is_ours=False)


def test_a_trainer_is_not_built_over_a_path_of_the_swarm(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("do not train on me " * 1000)
    world = World()
    data = world.config.data.model_copy(update={"dataset_name": str(secret)})
    world.config = world.config.model_copy(update={"data": data})
    with pytest.raises(ConfigError, match="not given on this machine"):
        build_trainer(world.context("me"), None, knows_data=False)


class NoDevice:
    executor = None


def test_a_trainer_is_built_over_a_known_data_set():
    built = build_trainer(World().context("me"), NoDevice(), knows_data=False)
    assert isinstance(built, TrainerRole)


def batches_of(*, may_be_served, **values):
    world = World()
    world.config = Config.model_validate(values)
    return open_batches(
        world.context("me"), NoDevice(), knows_data=True, may_be_served=may_be_served
    )


def test_batches_are_read_here_unless_a_data_server_pays():
    assert isinstance(batches_of(may_be_served=True), OwnBatches)
    on = {"data_server": {"mode": "on"}}
    assert isinstance(batches_of(may_be_served=True, **on), ServedBatches)
    assert isinstance(batches_of(may_be_served=False, **on), OwnBatches)


def test_a_transform_is_never_run_in_a_daemon():
    data = {"data": {"transform": "flip"}}
    served = batches_of(may_be_served=True, **data)
    assert isinstance(served, ServedBatches)
    with pytest.raises(ConfigError, match=r"runs in a data server, and there is none: .* is off"):
        batches_of(may_be_served=True, data_server={"mode": "off"}, **data)


def test_what_stages_take_is_known_from_their_parameters():
    config = Config().model_pipeline
    needs = stage_needs(config)
    assert [*needs] == ["front", "back"]
    sizes = [
        sum(p.numel() for p in build_stage(s, 0, "meta").parameters()) for s in config.pipeline
    ]
    assert [*needs.values()] == [32 * size for size in sizes]
