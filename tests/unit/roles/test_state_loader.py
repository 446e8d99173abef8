import asyncio
import math

import pytest
import torch

from distqatd.averaging.manifest import ALL
from distqatd.averaging.serving import StateServer
from distqatd.averaging.state import pack
from distqatd.base.errors import NonFinite
from distqatd.config.run import resume_digest
from distqatd.roles.expert_life import REFRESH_S
from distqatd.roles.state_loader import MIRROR, REPLICAS, pick_mirrors, pick_replicas
from distqatd.swarm import records as r
from distqatd.swarm.view import expert_info
from tests.support.contexts import kinds
from tests.support.expert_roles import ExpertWorld
from tests.support.loops import on_virtual_time
from tests.support.pipelines import batch
from tests.support.views import record

RUN = "distqat"


def replica(peer, outer_step):
    return expert_info(peer, record("full.0.0.0", outer_step=outer_step))


def mirror(peer, outer_step, config_digest="ours"):
    return peer, r.MirrorRecord(("/ip4/10.0.0.1/tcp/1",), 1, outer_step, config_digest)


def event(world, peer, kind):
    [found] = [e for e in world.contexts[peer].events.since() if e.kind == kind]
    return found.fields


def test_replicas_at_the_newest_outer_step_are_asked():
    picked = pick_replicas(2, [replica("a", 3), replica("b", 4), replica("c", 4)])
    assert picked.value.kind == REPLICAS
    assert [peer for _, peer in picked.value.donors] == ["b", "c"]
    assert pick_replicas(4, [replica("a", 3)]).value is None


def test_mirrors_of_this_run_at_the_newest_outer_step_are_asked():
    mirrors = [mirror("a", 9, "other"), mirror("b", 4), mirror("c", 4), mirror("d", 3)]
    picked = pick_mirrors(2, "full", mirrors, "ours")
    assert picked.value.kind == MIRROR
    assert picked.value.donors == (("mirror/full", "b"), ("mirror/full", "c"))
    assert pick_mirrors(4, "full", mirrors, "ours").value is None


def trained(world):
    """Return the state of an expert of this world after two outer steps, and the expert."""
    expert = world.expert("a")
    expert.keep_inner_state()
    world.advance("a", times=2)
    return pack(expert.snapshot(), ALL)


def announce_mirror(world, peer, state, outer_step=2):
    server = StateServer(world.net.peer(peer))
    server.offer("mirror/full", lambda _: state)
    value = r.MirrorRecord(("/ip4/10.0.0.1/tcp/1",), 1, outer_step, resume_digest(world.config))
    world.board.put(r.mirror_key(RUN), peer, "", value.pack())


@on_virtual_time
async def test_with_nobody_to_ask_an_expert_starts_from_the_seed_and_says_so():
    async with ExpertWorld("full") as world:
        world.start("a")
        await world.serving("a")
        assert "no mirror" in event(world, "a", "expert.state_seeded")["reason"]


@on_virtual_time
async def test_a_mirror_gives_all_parts_when_no_replica_serves():
    async with ExpertWorld("full") as world:
        world.start("a")
        await world.serving("a")
        state = trained(world)
        anchor = world.expert("a").anchor_digest
        world.roles["a"].task.cancel()
        await asyncio.sleep(0.1)
        announce_mirror(world, "m", state)
        world.start("b")
        await world.serving("b")
        told = event(world, "b", "expert.state_loaded")
        assert (told["source"], told["inner"], told["outer_step"]) == (MIRROR, True, 2)
        assert world.expert("b").anchor_digest == anchor
        assert world.expert("b").inner_step == 2


@on_virtual_time
async def test_a_serving_replica_comes_before_a_mirror():
    async with ExpertWorld("full") as world:
        world.start("a")
        await world.serving("a")
        announce_mirror(world, "m", trained(world), outer_step=5)
        world.start("b")
        await world.serving("b")
        assert event(world, "b", "expert.state_loaded")["source"] == REPLICAS


@on_virtual_time
async def test_a_joiner_loads_while_its_donors_are_in_a_round():
    async with ExpertWorld("full") as world:
        world.start("a", "b")
        await world.serving("a", "b")
        world.advance("a")
        await asyncio.sleep(REFRESH_S + 5)  # b catches up
        world.net.delay("averaging.chunk", 5.0)
        for number, peer in enumerate("ab"):
            world.train(peer, number)
        world.round("a", "b")
        await asyncio.sleep(1)
        assert all(world.roles[peer]._life.rounds.is_running for peer in "ab")
        world.start("c")
        await world.serving("c", within_s=2)
        assert world.expert("a").outer_step == 1  # their round is still under way
        assert event(world, "c", "expert.state_loaded")["outer_step"] == 1
        await asyncio.sleep(15)
        assert world.expert("a").outer_step == 2


@on_virtual_time
async def test_a_joiner_waits_for_a_donor_that_lost_its_link():
    async with ExpertWorld("full") as world:
        world.start("a")
        await world.serving("a")
        world.advance("a")
        asked = []

        def cut(_, target, method):
            if method == "state.chunk":
                asked.append(target)
                if len(asked) == 1:
                    world.net.cut("a")
                    asyncio.get_running_loop().call_later(3, world.net.heal, "a")

        world.net.on_call = cut
        world.start("b")
        await world.serving("b")
        assert "expert.state_missing" in kinds(world.contexts["b"])
        assert world.expert("b").outer_step == 1


@on_virtual_time
async def test_state_that_nobody_has_any_more_is_told_as_lost():
    async with ExpertWorld("full") as world:
        world.start("a")
        await world.serving("a")
        world.advance("a")

        def kill(_, __, method):
            if method == "state.chunk":
                world.roles["a"].task.cancel()
                world.net.cut("a")

        world.net.on_call = kill
        world.start("b")
        await world.serving("b")
        assert "expert.state_lost" in kinds(world.contexts["b"])
        assert world.expert("b").outer_step == 0


@on_virtual_time
async def test_parameters_that_diverged_are_told_and_go_back_to_the_anchor():
    async with ExpertWorld("full") as world:
        world.start("a")
        await world.serving("a")
        expert, made = world.expert("a"), batch(0)
        with torch.no_grad():
            next(expert.stage.parameters()).fill_(math.nan)
        with pytest.raises(NonFinite):
            expert.loss_backward(0, made.inputs, made.targets, 1.0, 0)
        expert.abort()
        await asyncio.sleep(REFRESH_S + 1)
        assert event(world, "a", "expert.diverged")["times"] == 1
        world.train("a", 1)
