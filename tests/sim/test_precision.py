"""Swarms in fp16-mixed: an overflow at one stage is one dropped step at all, and counted once."""

import pytest
import torch

from distqatd.compute.expert import Expert
from distqatd.compute.precision import Precision
from distqatd.compute.scale import LossScale
from distqatd.config.sections import Config
from distqatd.data.batches import open_dataset
from distqatd.roles import baseline
from tests.sim.scenarios.whole_swarm import Swarm, make_config
from tests.sim.sim import run
from tests.sim.test_equals_baseline import config_of as baseline_config
from tests.sim.test_equals_baseline import train_swarm
from tests.sim.test_resume import INNER, OUTER, Life, config_of

START = 2.0**10


def in_fp16(config, growth=1000):
    values = config.model_dump()
    values["data"] |= {
        "precision": "fp16-mixed",
        "loss_scale": START,
        "loss_scale_growth": growth,
    }
    return Config.model_validate(values)


@pytest.fixture
def overflow_at(monkeypatch):
    """Return a function that plants one overflow: at an expert, after so many of its steps."""
    planted = {}
    real = Expert.gradients_overflow

    def gradients_overflow(expert, num_microbatches):
        overflows = real(expert, num_microbatches)
        return planted.pop((expert.uid, expert.inner_step), None) is not None or overflows

    monkeypatch.setattr(Expert, "gradients_overflow", gradients_overflow)
    return lambda uid, inner_step: planted.update({(uid, inner_step): True})


@pytest.fixture
def scales(monkeypatch):
    """Return the loss scale of each applied step of `front.0.0.0`, by its number."""
    seen = {}
    real = Expert.apply

    def apply(expert, num_samples, batch, scale):
        result = real(expert, num_samples, batch, scale)
        if expert.uid == "front.0.0.0":
            seen[expert.inner_step] = scale
        return result

    monkeypatch.setattr(Expert, "apply", apply)
    return seen


def test_an_overflow_at_the_front_stage_drops_the_step_at_all_stages_and_halves_the_scale(
    overflow_at,
):
    overflow_at("front.0.0.0", 5)
    found = {}

    async def scenario(sim):
        swarm = Swarm(sim, in_fp16(make_config(inner_steps=4, outer_steps=3)))
        swarm.add("monitor", "client", "trainer")
        for _ in range(4):
            swarm.add("expert")
        await sim.until(swarm.is_finished, within_s=600, what="the run is finished", every_s=1.0)
        ledger = swarm.client.ledger
        counts = (ledger.overflows, ledger.replayed, ledger.lost(), ledger.duplicated)
        found["counts"] = counts
        found["identical"] = swarm.is_identical()
        trained = {hosted.uid: hosted.expert for hosted in swarm.experts()}
        found["same book"] = len({expert.book.anchor for expert in trained.values()}) == 1
        found["scales"] = {uid: expert.loss_scale.value for uid, expert in trained.items()}
        found["steps"] = {uid: expert.inner_step for uid, expert in trained.items()}
        await swarm.stop()

    run(scenario, 0)
    assert found["counts"] == (1, 0, 0, 0)
    assert found["identical"]
    assert found["same book"]
    # Which back is behind front.0.0.0 is the client's choice.
    halved = [uid for uid, scale in found["scales"].items() if scale == START / 2]
    assert len(halved) == 2
    assert "front.0.0.0" in halved
    assert all(found["scales"][uid] == START for uid in found["scales"].keys() - set(halved))


def test_a_resumed_run_goes_on_with_the_loss_scale_bit_for_bit(tmp_path, overflow_at, scales):
    growth = INNER * 2
    config = in_fp16(config_of("resnet18"), growth)
    overflow_at("front.0.0.0", 3)
    whole = Life(config)
    expected = dict(scales)
    assert expected[4] == LossScale(START / 2)
    assert expected[OUTER * INNER].value == START
    scales.clear()
    mirror = {"enable": True, "refresh_every": 0.1, "checkpoint_dir": tmp_path / "kept"}
    overflow_at("front.0.0.0", 3)
    stopped = Life(in_fp16(config_of("resnet18", **mirror), growth), stop="crash", seed=1)
    scales.clear()
    resumed = Life(in_fp16(config_of("resnet18", **mirror, resume=True), growth), seed=2)
    begin = stopped.kept * INNER
    assert scales == {step: expected[step] for step in range(begin + 1, OUTER * INNER + 1)}
    assert resumed.losses == {n: whole.losses[n] for n in range(begin, OUTER * INNER)}
    assert all(torch.equal(resumed.state[name], t) for name, t in whole.state.items())


@pytest.mark.parametrize(
    ("model", "precision", "tolerance"),
    [
        ("resnet18", "bf16", 0.01),
        ("resnet18", "fp16-mixed", 0.01),
        ("gpt2", "bf16", 0.001),
        ("gpt2", "fp16-mixed", 0.0001),
    ],
)
def test_fifty_steps_lose_no_more_than_16_bits_do(model, precision, tolerance):
    config = baseline_config(model, 2, 1)
    dataset = open_dataset(config.data, config.seed, config.diloco.batch_size_per_step)
    plain = baseline.whole_model(config, torch.device("cpu"))
    expected = [step.loss for step in baseline.train(config, plain, dataset)]
    data = config.data.model_copy(update={"precision": precision})
    losses, state = train_swarm(config.model_copy(update={"data": data}))
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in state.values())
    assert len(losses) == 50
    assert sum(losses) == pytest.approx(sum(expected), rel=tolerance)


def test_a_replica_in_bf16_and_one_in_float32_average_to_the_same_bits():
    found = {}

    async def scenario(sim):
        swarm = Swarm(sim, make_config(inner_steps=4, outer_steps=3))
        swarm.add("monitor", "client", "trainer")
        for _ in range(4):
            swarm.add("expert")

        def all_serve():
            return len(swarm.experts()) == 4

        await sim.until(all_serve, within_s=60, what="all experts serve", every_s=0.01)
        for hosted in swarm.experts():
            if hosted.uid.endswith(".1.0"):
                hosted.expert._passes._precision = Precision("bf16")
        await sim.until(swarm.is_finished, within_s=600, what="the run is finished", every_s=1.0)
        found["identical"] = swarm.is_identical()
        found["steps"] = [hosted.expert.inner_step for hosted in swarm.experts()]
        found["lost"] = swarm.client.ledger.lost()
        await swarm.stop()

    run(scenario, 0)
    assert found["identical"]
    assert found["lost"] == 0
    assert all(steps > 4 for steps in found["steps"])
