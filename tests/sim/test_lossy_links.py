"""Real daemons on virtual time whose stages talk in int8 train as well as with exact links."""

import pytest
import torch

from distqatd.config.layers import presets
from distqatd.config.sections import Config
from distqatd.config.text import parse_file
from distqatd.data.batches import open_dataset
from distqatd.roles import baseline
from tests.sim.scenarios.whole_swarm import Swarm, make_config
from tests.sim.sim import run

SIZES = [64, 32, 32, 10]
BAR = 0.93


def config_of(wire: str) -> Config:
    plain = make_config(
        inner_steps=50,
        outer_steps=6,
        batch_size_per_step=32,
        inner_optim={"adam_lr": 5e-3},
    ).model_dump()
    plain["quant"]["wire"] = wire
    plain["data"]["validation_fraction"] = 0.2
    for stage in plain["model_pipeline"]["pipeline"]:
        stage["sizes"] = SIZES
    return Config.model_validate(plain)


def train(wire: str) -> float:
    """Return the accuracy that a run of two stages ends with."""
    config = config_of(wire)
    state: dict[str, torch.Tensor] = {}

    async def scenario(sim):
        swarm = Swarm(sim, config)
        swarm.add("monitor", "client", "trainer")
        swarm.add("expert")
        swarm.add("expert")
        await sim.until(swarm.is_finished, within_s=600, what="the run is finished", every_s=1.0)
        for hosted in swarm.experts():
            state.update(hosted.expert.stage.global_state_dict())
        await swarm.stop()

    run(scenario, 0)
    model = baseline.whole_model(config, torch.device("cpu"))
    model.load_global_state_dict(state)
    dataset = open_dataset(config.data, config.seed, config.diloco.batch_size_per_step)
    return baseline.evaluate(config, model, dataset)["accuracy"]


@pytest.mark.parametrize("wire", ["fp32", "int8"])
def test_digits_in_two_stages_reach_their_bar(wire: str) -> None:
    assert train(wire) >= BAR


def test_the_preset_for_home_links_has_lossy_ones() -> None:
    values, _ = parse_file(presets()["wan"], "wan.yaml")
    assert Config.model_validate(values).quant.wire == "int8"
