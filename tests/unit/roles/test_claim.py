import asyncio

import pytest

from distqatd.base.errors import SwarmError
from distqatd.roles.claim import Claim
from distqatd.swarm import records as r
from tests.support.contexts import kinds
from tests.support.expert_roles import ExpertWorld
from tests.support.loops import on_virtual_time
from tests.support.views import record

RUN = "distqat"


def ghost(world, peer, uid, stage_index):
    """Put the record of a peer that has died on the board."""
    key = r.stage_key(RUN, stage_index)
    world.board.put(key, peer, "0", record(uid).pack())


@on_virtual_time
async def test_joiners_fill_the_stages_evenly_whoever_comes_first():
    async with ExpertWorld("front", "back") as world:
        for peer in "abcd":
            world.start(peer)
            await world.serving(peer)
        assert sorted(await world.serving(*"abcd")) == [
            "back.0.0.0",
            "back.0.1.0",
            "front.0.0.0",
            "front.0.1.0",
        ]


@on_virtual_time
async def test_joiners_at_the_same_moment_take_different_slots():
    async with ExpertWorld("front", "back") as world:
        world.start(*"abcdef")
        uids = await world.serving(*"abcdef")
        assert len(set(uids)) == 6
        assert sum(uid.startswith("front") for uid in uids) == 3


@on_virtual_time
async def test_the_lower_peer_id_keeps_a_slot_that_two_claim():
    async with ExpertWorld("full", max_expert_index=2) as world:
        first, second = (Claim(world.context(peer), "0") for peer in "ab")
        async with asyncio.TaskGroup() as group:
            settled = [group.create_task(claim.settle()) for claim in (second, first)]
        slots = [task.result()[0].index for task in settled]
        assert sorted(slots) == [0, 1]


@on_virtual_time
async def test_an_expert_that_does_not_answer_leaves_a_gap_to_fill():
    async with ExpertWorld("front", "back") as world:
        world.start("a")
        await world.serving("a")  # front
        ghost(world, "dead", "back.0.0.0", 1)
        ghost(world, "gone", "back.0.1.0", 1)
        world.start("b")
        [uid] = await world.serving("b")
        assert uid.startswith("back")
        assert kinds(world.contexts["b"]).count("peer.left_out") == 2


@on_virtual_time
async def test_a_wanted_stage_is_taken_although_another_has_nobody():
    async with ExpertWorld("front", "back", compute={"stage": "back"}) as world:
        world.start("a", "b")
        assert sorted(await world.serving("a", "b")) == ["back.0.0.0", "back.0.1.0"]


@on_virtual_time
async def test_without_a_free_slot_nothing_is_claimed():
    async with ExpertWorld("full", max_expert_index=1) as world:
        world.start("a")
        await world.serving("a")
        with pytest.raises(SwarmError, match="max_expert_index"):
            await Claim(world.context("b"), "0").settle()


@on_virtual_time
async def test_a_claim_stands_until_the_serving_record_has_had_time_to_spread():
    async with ExpertWorld("full") as world:
        world.start("a")
        await world.serving("a")
        key = r.joining_key(RUN)
        assert len(await world.board.get(key)) == 1
        await asyncio.sleep(6)
        assert await world.board.get(key) == []
