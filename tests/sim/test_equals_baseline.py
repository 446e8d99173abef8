"""A swarm of one replica per stage trains exactly what plain torch trains, outer steps included."""

import pytest
import torch

from distqatd.config.sections import Config
from distqatd.data.batches import open_dataset
from distqatd.pipeline.runner import RouteRunner
from distqatd.roles import baseline
from tests.sim.scenarios.whole_swarm import Swarm, make_config
from tests.sim.sim import run

GPT2 = {"vocab_size": 256, "n_positions": 16, "n_embd": 16, "n_head": 2, "n_layer": 2}
MODELS = {
    "mlp": {"sizes": [64, 16, 16, 10]},
    "resnet18": {"width": 2, "num_channels": 1, "stem": "cifar"},
    "gpt2": {**GPT2, "dropout": 0.0},
}
TEXT = {"dataset_name": "python_sources", "task_type": "llm", "seq_len": 16, "max_bytes": 50_000}
SPLITS = {2: ("front", "back"), 3: ("head", "body", "tail")}


def config_of(model: str, num_stages: int, num_microbatches: int) -> Config:
    plain = make_config(inner_steps=25, outer_steps=2, num_microbatches=num_microbatches)
    values = plain.model_dump()
    names = SPLITS[num_stages]
    values["model_pipeline"]["pipeline"] = [
        {"model_name": f"{model}.{name}", **MODELS[model]} for name in names
    ]
    if model == "gpt2":
        values["data"] |= TEXT
    return Config.model_validate(values)


def scheduled(outer: str) -> Config:
    """Return a run in which everything that can change over a run does."""
    inner = {"lr_schedule": "cosine", "warmup_steps": 3, "max_grad_norm": 0.3}
    plain = make_config(
        inner_steps=8,
        outer_steps=5,
        warm_start={"length": 2, "round_steps": 2, "lr": 1.5, "ramp": 1},
        inner_optim=inner,
        outer_optim={"type": outer},
    )
    values = plain.model_dump()
    # One stage: gradients are clipped stage by stage, and the baseline has only one.
    values["model_pipeline"]["pipeline"] = [{"model_name": "mlp.full", **MODELS["mlp"]}]
    return Config.model_validate(values)


@pytest.mark.parametrize("outer", ["sgd", "adam"])
def test_schedules_of_a_swarm_are_those_of_plain_torch(outer):
    config = scheduled(outer)
    losses, state = train_swarm(config)
    whole = baseline.whole_model(config, torch.device("cpu"))
    dataset = open_dataset(config.data, config.seed, config.diloco.batch_size_per_step)
    steps = [*baseline.train(config, whole, dataset)]
    assert [step.step for step in steps if step.outer_step] == [2, 4, 8, 16, 24]
    assert losses == pytest.approx([step.loss for step in steps], abs=1e-5)
    for name, tensor in whole.global_state_dict().items():
        assert torch.allclose(state[name], tensor, atol=1e-5), name


@pytest.mark.parametrize(
    ("outer", "streaming"),
    [
        ("sgd", {"fragments": 3}),
        ("adam", {"fragments": 2, "overlap_steps": 3, "mix_alpha": 0.25}),
        ("sgd", {"overlap_steps": 1}),
    ],
)
def test_fragments_and_overlap_of_a_swarm_are_those_of_plain_torch(outer, streaming):
    plain = make_config(inner_steps=4, outer_steps=8, outer_optim={"type": outer}, **streaming)
    values = plain.model_dump()
    values["model_pipeline"]["pipeline"] = [
        {"model_name": f"mlp.{name}", **MODELS["mlp"]} for name in SPLITS[2]
    ]
    config = Config.model_validate(values)
    losses, state = train_swarm(config)
    whole = baseline.whole_model(config, torch.device("cpu"))
    dataset = open_dataset(config.data, config.seed, config.diloco.batch_size_per_step)
    assert losses == pytest.approx(
        [step.loss for step in baseline.train(config, whole, dataset)], abs=1e-5
    )
    for name, tensor in whole.global_state_dict().items():
        assert torch.allclose(state[name], tensor, atol=1e-5), name


def train_swarm(config: Config) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Train the whole run in a simulated swarm of real daemons; return losses and parameters."""
    losses: list[float] = []
    state: dict[str, torch.Tensor] = {}
    plain_step = RouteRunner.step

    async def step(self, batch, number):
        result = await plain_step(self, batch, number)
        if not result.vetoes:  # a step that is dropped, in fp16
            losses.append(result.loss)
        return result

    async def scenario(sim):
        swarm = Swarm(sim, config)
        swarm.add("monitor", "client", "trainer")
        for _ in config.model_pipeline.pipeline:
            swarm.add("expert")
        await sim.until(swarm.is_finished, within_s=600, what="the run is finished", every_s=1.0)
        for hosted in swarm.experts():
            state.update(hosted.expert.stage.global_state_dict())
        await swarm.stop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RouteRunner, "step", step)
        run(scenario, 0)
    return losses, state


@pytest.mark.parametrize("num_microbatches", [1, 4])
@pytest.mark.parametrize("num_stages", [2, 3])
@pytest.mark.parametrize("model", list(MODELS))
def test_a_swarm_equals_plain_torch_over_fifty_steps(model, num_stages, num_microbatches):
    config = config_of(model, num_stages, num_microbatches)
    losses, state = train_swarm(config)
    whole = baseline.whole_model(config, torch.device("cpu"))
    dataset = open_dataset(config.data, config.seed, config.diloco.batch_size_per_step)
    expected = [step.loss for step in baseline.train(config, whole, dataset)]
    assert len(losses) == 50
    assert losses == pytest.approx(expected, abs=1e-5)
    for name, tensor in whole.global_state_dict().items():
        assert torch.allclose(state[name], tensor, atol=1e-5), name
    if num_microbatches == 1 and model != "resnet18":
        # One microbatch leaves no order of additions open: the bits are the same.
        assert losses == expected
        assert all(torch.equal(state[n], t) for n, t in whole.global_state_dict().items())
