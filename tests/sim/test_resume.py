"""A run that was stopped and resumed is, bit for bit, the run that was never stopped.

One replica per stage: then there is one order in which numbers are added.
"""

import pytest
import torch

from distqatd.config.sections import Config
from distqatd.pipeline.runner import RouteRunner
from tests.sim.scenarios import whole_swarm
from tests.sim.scenarios.whole_swarm import Swarm, make_config
from tests.sim.sim import run

INNER, OUTER = 6, 4
GPT2 = {"vocab_size": 256, "n_positions": 16, "n_embd": 16, "n_head": 2, "n_layer": 2}
TEXT = {"dataset_name": "python_sources", "task_type": "llm", "seq_len": 16, "max_bytes": 50_000}
RUNS = {
    # Adam's moments and counts; dropout, whose numbers depend on the batch.
    "gpt2": ({**GPT2, "dropout": 0.2}, {"type": "adamw"}),
    # Momentum; BatchNorm's means, variances and counts.
    "resnet18": (
        {"width": 2, "num_channels": 1, "stem": "cifar"},
        {"type": "sgd", "sgd_lr": 0.05, "sgd_momentum": 0.9},
    ),
}


@pytest.fixture(autouse=True)
def _slow_machines(monkeypatch):
    """Let an outer step take longer than it takes a mirror to look."""
    monkeypatch.setattr(whole_swarm, "STEP_COST_S", 0.1)


STREAMING = {"fragments": 2, "overlap_steps": 2}
"""Outer steps take one of two fragments, and inner steps go on beside them."""


def config_of(model, outer_steps=OUTER, streaming=None, **mirror):
    options, inner = RUNS[model]
    values = make_config(
        inner_steps=INNER, outer_steps=outer_steps, inner_optim=inner, **(streaming or {})
    ).model_dump()
    values["model_pipeline"]["pipeline"] = [
        {"model_name": f"{model}.{name}", **options} for name in ("front", "back")
    ]
    values["param_mirror"] = mirror
    if model == "gpt2":
        values["data"] |= TEXT
    return Config.model_validate(values)


class Life:
    """One life of a swarm: from its start until it is finished, or until it is stopped."""

    def __init__(self, config, *, stop=None, seed=0):
        self.losses = {}
        self.order = []
        self.state = {}
        self.kept = 0
        self._config = config
        self._stop = stop
        plain_step = RouteRunner.step

        async def step(runner, batch, number):
            result = await plain_step(runner, batch, number)
            self.losses[number] = result.loss
            self.order.append(number)
            return result

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RouteRunner, "step", step)
            run(self._live, seed)

    async def _live(self, sim):
        swarm = Swarm(sim, self._config)
        first = swarm.add("monitor", "client", "trainer")
        for _ in range(2):
            swarm.add("expert")

        def is_kept():
            mirror = swarm.nodes[first].crew.mirror if first in swarm.nodes else None
            self.kept = mirror.shelf.outer_step if mirror else 0
            return self.kept >= 2

        def is_over():
            is_kept()
            keeps_all = not self._config.param_mirror.enable or self.kept >= last
            return swarm.is_finished() and keeps_all

        last = self._config.diloco.outer_steps
        until = is_over if self._stop is None else is_kept
        await sim.until(until, within_s=900, what="the life is over", every_s=0.1)
        for hosted in swarm.experts():
            self.state |= {k: v.clone() for k, v in hosted.expert.stage.global_state_dict().items()}
        if self._stop == "crash":
            for host in swarm.hosts.values():
                host.crash()
        else:
            await swarm.stop()


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize(
    ("model", "stop", "streaming"),
    [
        ("gpt2", "crash", None),
        ("resnet18", "in order", None),
        ("gpt2", "crash", STREAMING),
        ("resnet18", "crash", STREAMING),
    ],
)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, model, stop, streaming):
    whole = Life(config_of(model, streaming=streaming))
    mirror = {"enable": True, "refresh_every": 0.1, "checkpoint_dir": tmp_path / "kept"}
    mirror["streaming"] = streaming
    stopped = Life(config_of(model, **mirror), stop=stop, seed=1)
    assert 2 <= stopped.kept < OUTER
    assert not same(stopped.state, whole.state)
    resumed = Life(config_of(model, **mirror, resume=True), seed=2)
    begin = stopped.kept * INNER + (streaming["overlap_steps"] if streaming else 0)
    assert whole.order == list(range(OUTER * INNER))
    assert resumed.order == list(range(begin, OUTER * INNER))
    assert resumed.losses == {n: whole.losses[n] for n in range(begin, OUTER * INNER)}
    assert same(resumed.state, whole.state)


def test_a_run_that_is_over_goes_on_with_more_outer_steps(tmp_path):
    whole = Life(config_of("resnet18"))
    mirror = {"enable": True, "refresh_every": 0.1, "checkpoint_dir": tmp_path / "kept"}
    short = Life(config_of("resnet18", outer_steps=2, **mirror), seed=1)
    assert short.kept == 2
    longer = Life(config_of("resnet18", **mirror, resume=True), seed=2)
    assert longer.order == list(range(2 * INNER, OUTER * INNER))
    assert same(longer.state, whole.state)
