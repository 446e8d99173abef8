import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from distqatd.base.errors import DialError, SwarmError
from distqatd.base.rng import seeded_rng
from distqatd.roles.claim import Claim
from distqatd.roles.directory import SEES
from distqatd.swarm import records as r
from distqatd.wire.payload import Message
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
async def test_an_expert_that_nobody_can_connect_to_keeps_its_slot():
    async with ExpertWorld("front", "back") as world:
        world.start("a")
        await world.serving("a")  # front
        caller = replace(record("back.0.0.0"), addresses=())
        world.board.put(r.stage_key(RUN, 1), "caller", "0", caller.pack())
        world.start("b")
        assert await world.serving("b") != ["back.0.0.0"]
        assert "peer.left_out" not in kinds(world.contexts["b"])


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


# --- attacks: records that are seen late, links that are broken for one peer only


class LaggingWorld(ExpertWorld):
    """Everybody sees records of others only `lag_s` seconds after they were written."""

    def __init__(self, *names, lag_s, **config):
        super().__init__(*names, **config)
        self.lag_s = lag_s
        self.history = {}
        put = self.board.put

        def noted(key, peer_id, subkey, value):
            put(key, peer_id, subkey, value)
            slot = (key, peer_id, subkey)
            entry = (asyncio.get_running_loop().time(), self.board.records[slot])
            self.history.setdefault(slot, []).append(entry)

        self.board.put = noted

    def source(self, peer_id):
        return Lagging(self)


class Lagging:
    def __init__(self, world):
        self.world = world

    async def get(self, key):
        seen_until = asyncio.get_running_loop().time() - self.world.lag_s
        found = []
        for slot in self.world.board.records:
            if slot[0] == key:
                known = [s for at, s in self.world.history[slot] if at <= seen_until]
                found += known[-1:]
        return found


@pytest.mark.parametrize("seed", range(12))
@on_virtual_time
async def test_however_late_records_are_seen_no_slot_is_served_twice_for_long(seed):
    rng = seeded_rng("late records", seed)
    async with LaggingWorld("front", "back", lag_s=rng.uniform(0.0, 3.0)) as world:
        peers = rng.sample("abcdefgh", rng.randint(2, 6))
        for peer in peers:
            world.start(peer)
            await asyncio.sleep(rng.choice([0.0, 0.1, 0.5, 1.0]))
        await asyncio.sleep(60)
        uids = await world.serving(*peers)
        assert len(set(uids)) == len(peers)
        stages = Counter(uid.split(".")[0] for uid in uids)
        assert len(stages) == 2
        assert max(stages.values()) - min(stages.values()) <= 2


@pytest.mark.parametrize("number", [2, 3, 5])
@on_virtual_time
async def test_one_gap_is_filled_by_one_of_those_who_come_at_the_same_moment(number):
    async with ExpertWorld("front", "back") as world:
        world.start("a", "b")
        await world.serving("a", "b")
        lost = next(p for p in "ab" if world.roles[p].slot.stage == "back")
        world.roles[lost].task.cancel()  # a clean end: its records go with it
        await asyncio.sleep(0)
        world.net.cut(lost)
        joiners = "cdefg"[:number]
        world.start(*joiners)
        uids = await world.serving(*joiners)
        stages = Counter(uid.split(".")[0] for uid in uids)
        assert stages["back"] == (number + 1) // 2
        assert len(set(uids)) == number


@on_virtual_time
async def test_an_expert_that_only_we_cannot_reach_keeps_its_slot():
    async with ExpertWorld("front", "back") as world:
        world.start("a", "b", "c")
        await world.serving("a", "b", "c")
        await asyncio.sleep(6)
        far = next(p for p in "abc" if world.roles[p].slot.uid == "back.0.0.0")
        near = world.net.peer("x")

        async def broken(peer, method, message, **options):
            if peer == far:
                raise DialError("our way to it is broken")
            return await type(near).call(near, peer, method, message, **options)

        near.call = broken
        world.start("x")
        [uid] = await world.serving("x")
        assert uid == "back.0.1.0"  # the fewest replicas, not the gap it would be
        told = [reason.text for reason in world.contexts["x"].reasons.all() if reason.kind == "gap"]
        assert any("reaches what we do not" in text for text in told)
        assert "peer.left_out" not in kinds(world.contexts["x"])


@on_virtual_time
async def test_whoever_cannot_ask_anybody_else_believes_its_own_eyes():
    async with ExpertWorld("front", "back") as world:
        ghost(world, "dead", "front.0.0.0", 0)
        world.start("x")
        assert await world.serving("x") == ["front.0.0.0"]


@on_virtual_time
async def test_an_expert_its_own_peer_does_not_know_any_more_leaves_a_gap():
    async with ExpertWorld("front", "back") as world:
        world.start("a", "b")
        await world.serving("a", "b")
        await asyncio.sleep(6)
        back = next(p for p in "ab" if world.roles[p].slot.stage == "back")
        records = dict(world.board.records)
        world.roles[back].task.cancel()
        await asyncio.sleep(0)
        world.board.records = records  # as after a kill -9 and a restart of that daemon
        world.start("x")
        assert await world.serving("x") == ["back.0.0.0"]
        assert "peer.left_out" not in kinds(world.contexts["x"])


@on_virtual_time
async def test_a_daemon_that_restarts_at_once_takes_its_own_old_slot():
    async with ExpertWorld("front", "back") as world:
        world.start("a")
        await world.serving("a")
        world.board.put(r.stage_key(RUN, 1), "x", "0", record("back.0.0.0", epoch=0).pack())
        world.start("x")
        assert await world.serving("x") == ["back.0.0.0"]


@on_virtual_time
async def test_two_experts_of_one_daemon_take_two_slots():
    async with ExpertWorld("full") as world:
        world.start("a")
        context = world.context("a")
        await world.serving("a")
        slot, _ = await Claim(context, "1").settle()
        assert slot.index == 1


@on_virtual_time
async def test_a_dead_experts_slot_is_taken_within_three_seconds_of_the_start():
    async with ExpertWorld("front", "back") as world:
        world.start("a", "b", "c", "d")
        await world.serving("a", "b", "c", "d")
        await asyncio.sleep(6)
        victim = next(p for p in "abcd" if world.roles[p].slot.uid == "back.0.1.0")
        records = dict(world.board.records)
        world.roles[victim].task.cancel()
        await asyncio.sleep(0)
        world.net.cut(victim)
        world.board.records = records  # a kill -9 takes nothing back
        began = asyncio.get_running_loop().time()
        world.start("x")
        assert await world.serving("x") == ["back.0.1.0"]
        assert asyncio.get_running_loop().time() - began < 3.0


@on_virtual_time
async def test_strangers_are_not_called_on_behalf_of_others():
    async with ExpertWorld("full") as world:
        world.start("a")
        await world.serving("a")
        question = Message({"peer": "victim", "stage": ""})
        asker = world.net.peer("x")
        world.net.peer("victim").serve(SEES, None)
        reply = await asker.call("a", SEES, question, timeout_s=5)
        assert reply.body["sees"] is False
        assert not [call for call in world.net.calls if call[1] == "victim"]
