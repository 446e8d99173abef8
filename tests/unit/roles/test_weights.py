"""A run that starts from published weights, on machines that have them and on one without."""

import asyncio

import torch
from safetensors.torch import save_file

from distqatd.compute.weights import Weights
from distqatd.models.registry import build_stage
from distqatd.optim.flat import FlatLayout
from tests.support.contexts import kinds
from tests.support.expert_roles import ExpertWorld
from tests.support.loops import on_virtual_time
from tests.support.pipelines import stages

MISSING = "expert.weights_missing"


def published(folder):
    """Write a model that no seed of these tests gives; return it, and where it is."""
    stage = build_stage(stages("full")[0], seed=99)
    save_file(stage.global_state_dict(), folder / "model.safetensors")
    return stage, Weights(folder)


def anchor(world, peer):
    return world.expert(peer).snapshot().tensors["anchor"]


def same(world, peer, stage):
    return torch.equal(anchor(world, peer), FlatLayout(stage).gather(stage))


@on_virtual_time
async def test_experts_start_from_the_weights_and_say_so(tmp_path):
    stage, weights = published(tmp_path)
    async with ExpertWorld("full", weights="theirs") as world:
        world.weights = {"a": weights, "b": weights}
        world.start("a", "b")
        await world.serving("a", "b")
        assert same(world, "a", stage)
        assert same(world, "b", stage)
        assert "expert.weights_loaded" in kinds(world.contexts["a"])


@on_virtual_time
async def test_a_machine_without_them_waits_for_one_that_has_them(tmp_path):
    stage, weights = published(tmp_path)
    async with ExpertWorld("full", weights="theirs") as world:
        world.start("a")
        await asyncio.sleep(60)
        assert world.roles["a"].hosted is None
        [told] = [e for e in world.contexts["a"].events.since() if e.kind == MISSING]
        assert told.degraded
        assert "compute.weights" in told.fields["fix"]
        world.weights = {"b": weights}
        world.start("b")
        await world.serving("a", "b")
        assert same(world, "a", stage)
        assert world.expert("a").anchor_digest == world.expert("b").anchor_digest
