"""Who asks experts to move, when, and which experts obey."""

import asyncio

import pytest

from distqatd.base.decision import Decision
from distqatd.base.errors import ExpertNotFound, StaleTerm, SwarmError
from distqatd.roles import rebalancer as module
from distqatd.roles.claim import Room
from distqatd.roles.directory import SEES
from distqatd.roles.rebalancer import (
    GAIN_GRACE_S,
    GAP_GRACE_S,
    MOVE,
    Rebalancer,
    plan,
    plan_confirmed,
)
from distqatd.roles.vantage import confirm_gap
from distqatd.swarm import records as r
from distqatd.wire.payload import Message
from tests.support.contexts import kinds
from tests.support.expert_roles import ExpertWorld
from tests.support.loops import on_virtual_time
from tests.support.views import info, lease, view_of

RUN = "distqat"


def holder(world, peer="client", term=1):
    """Give a peer the client's duty; return its rebalancer and its context."""
    context = world.contexts[peer] = world.context(peer, world.tasks, ("client",))
    world.board.put(r.leases_key(RUN), peer, "client", lease(term=term).pack())
    return Rebalancer(context), context


async def look_for(rebalancer, context, seconds):
    for _ in range(int(seconds)):
        rebalancer.look(await context.directory.refresh(), {})
        await asyncio.sleep(1)


async def pinned_to_front(world, *peers):
    """Start experts that all serve the first stage."""
    for peer in peers:
        world.start(peer)
        role = world.roles[peer]
        role._ordered = "front"
    await world.serving(*peers)
    await asyncio.sleep(6)  # until the claims are withdrawn


@on_virtual_time
async def test_a_spare_is_moved_into_a_gap_after_a_grace():
    async with ExpertWorld("front", "back") as world:
        await pinned_to_front(world, *"abc")
        rebalancer, context = holder(world)
        await look_for(rebalancer, context, GAP_GRACE_S - 1)
        assert "expert.move_asked" not in kinds(context)
        await look_for(rebalancer, context, 20)
        served = sorted(role.slot.stage for role in world.roles.values())
        assert served == ["back", "front", "front"]
        assert kinds(context).count("expert.move_asked") == 1
        assert any("back has no expert" in reason.text for reason in context.reasons.all())


@on_virtual_time
async def test_a_gap_that_another_vantage_point_does_not_see_moves_nobody():
    async with ExpertWorld("front", "back") as world:
        world.start(*"abcd")
        await world.serving(*"abcd")
        await asyncio.sleep(6)
        rebalancer, context = holder(world)
        await context.directory.refresh()
        backs = [p for p in "abcd" if world.roles[p].slot.stage == "back"]
        for _ in range(20):
            for peer in backs:  # our links to them break, theirs to others do not
                context.directory.mark_lost(peer, "our link broke")
            view = context.directory.view.without(backs)
            rebalancer.look(view, {})
            await asyncio.sleep(1)
        assert "gap.unconfirmed" in kinds(context)
        assert "expert.move_asked" not in kinds(context)
        assert "reaches what we do not" in " ".join(e.text for e in context.reasons.all())
        assert "others do not confirm" in rebalancer.last.reason


@on_virtual_time
async def test_a_gap_that_others_deny_does_not_hold_up_the_next_one(monkeypatch):
    async def seen_by_others(_, stage):
        return Decision(stage != "body", "as the test says")

    monkeypatch.setattr(module, "confirm_gap", seen_by_others)
    stages = ("front", "body", "back")
    view = view_of(stages, *(info(peer, f"front.0.{i}.0") for i, peer in enumerate("abc")))
    async with ExpertWorld("front", "back") as world:
        rebalancer, context = holder(world)
        asked = []

        async def move(_, message):
            asked.append(message.body["stage"])
            return Message({})

        for peer in "abc":
            world.net.peer(peer).serve(MOVE, move)
        for _ in range(20):
            rebalancer.look(view, {})
            await asyncio.sleep(1)
        assert "gap.unconfirmed" in kinds(context)
        assert set(asked) == {"back"}
        assert "others do not confirm" in rebalancer.last.reason


@on_virtual_time
async def test_a_gap_that_nobody_who_is_asked_can_confirm_moves_nobody():
    async with ExpertWorld("front", "back") as world:
        await pinned_to_front(world, *"abc")
        rebalancer, context = holder(world)
        await context.directory.refresh()
        for peer in "abc":  # they still hear us, and we them: only this question is not answered
            world.net.peer(peer).served.pop(SEES)
        await look_for(rebalancer, context, 3 * GAP_GRACE_S)
        assert "expert.move_asked" not in kinds(context)
        assert "we may be the one who is cut off" in " ".join(
            reason.text for reason in context.reasons.all()
        )


@on_virtual_time
async def test_who_does_not_answer_is_not_the_last_to_be_asked():
    async with ExpertWorld("front", "back") as world:
        await pinned_to_front(world, *"abcdef")
        for peer in "abcde":
            world.net.peer(peer).served.pop(SEES)
        _, context = holder(world)
        await context.directory.refresh()
        assert (await confirm_gap(context, "back")).reason == "1 other peers see the same"


@on_virtual_time
async def test_a_gain_is_waited_for_longer_and_nothing_moves_right_after_a_move():
    async with ExpertWorld("front", "back") as world:
        world.start("x")
        world.roles["x"]._ordered = "back"
        await world.serving("x")
        await pinned_to_front(world, *"abcdef")
        for peer in "abcdefx":
            world.expert(peer)._tally.samples_per_s = 10.0
            world.publish(peer)
        rebalancer, context = holder(world)
        await look_for(rebalancer, context, GAIN_GRACE_S - 2)
        assert "expert.move_asked" not in kinds(context)
        await look_for(rebalancer, context, 20)
        assert kinds(context).count("expert.move_asked") == 1


@on_virtual_time
async def test_a_plan_on_request_leaves_out_gaps_in_which_others_see_an_expert():
    async with ExpertWorld("front", "back") as world:
        world.start(*"abc")
        await world.serving(*"abc")
        await asyncio.sleep(6)
        _, context = holder(world)
        [back] = [p for p in "abc" if world.roles[p].slot.stage == "back"]
        view = (await context.directory.refresh()).without([back])
        assert plan(context, view, {}).value
        decision = await plan_confirmed(context, view, {})
        assert decision.value == ()
        assert "others do not confirm" in decision.reason


@on_virtual_time
async def test_a_dry_run_says_what_would_move_and_why_and_moves_nobody():
    async with ExpertWorld("front", "back") as world:
        await pinned_to_front(world, *"abc")
        _, context = holder(world)
        decision = plan(context, await context.directory.refresh(), {})
        assert [move.to_stage for move in decision.value] == ["back"]
        assert "back has no expert" in decision.reason
        assert world.net.calls.count(("client", "a", MOVE)) == 0


# --- the expert's side


def ask(world, caller, peer, **changes):
    body = {"uid": world.roles[peer].hosted.uid, "stage": "back", "reason": "x", "only_gap": False}
    rpc = world.contexts[caller].rpc
    return rpc.call(peer, MOVE, Message({**body, **changes}), timeout_s=5)


@on_virtual_time
async def test_only_the_holder_of_the_duty_moves_experts():
    async with ExpertWorld("front", "back") as world:
        await pinned_to_front(world, *"abc")
        holder(world, "client", term=2)
        holder(world, "former", term=1)
        with pytest.raises(StaleTerm, match="client holds"):
            await ask(world, "former", "a")
        with pytest.raises(StaleTerm):
            await ask(world, "b", "a")
        await ask(world, "client", "a")
        await asyncio.sleep(10)
        assert world.roles["a"].slot.stage == "back"
        assert "expert.moved" in kinds(world.contexts["a"])


@on_virtual_time
async def test_the_last_replica_an_unknown_expert_and_a_pinned_one_stay():
    async with ExpertWorld("front", "back") as world:
        await pinned_to_front(world, "a")
        holder(world)
        with pytest.raises(SwarmError, match="last serving replica of front"):
            await ask(world, "client", "a")
        with pytest.raises(ExpertNotFound):
            await ask(world, "client", "a", uid="front.0.9.0")
    async with ExpertWorld("front", "back", compute={"stage": "front"}) as world:
        world.start("a", "b")
        await world.serving("a", "b")
        holder(world)
        with pytest.raises(SwarmError, match="owner of this machine"):
            await ask(world, "client", "a")


@on_virtual_time
async def test_a_machine_that_is_too_small_for_a_gap_is_not_asked_and_would_refuse():
    needs = {"front": 1 << 20, "back": 4 << 30}
    small = Room(lambda: 1 << 30, needs)
    async with ExpertWorld("front", "back", rooms={"b": small, "c": small}) as world:
        await pinned_to_front(world, *"abc")
        rebalancer, context = holder(world)
        with pytest.raises(SwarmError, match="back does not fit into this machine's memory"):
            await ask(world, "client", "b")
        await look_for(rebalancer, context, 3 * GAP_GRACE_S)
        assert [world.roles[peer].slot.stage for peer in "abc"] == ["back", "front", "front"]
        assert "expert.move_refused" not in kinds(context)


def test_what_a_machine_lets_go_of_counts_as_room():
    room = Room(lambda: 100, {"front": 50, "back": 130, "top": 200}, {"front"})
    assert room.unfit_bits(("front", "back", "top")) == 0b111
    assert room.unfit_bits(("front", "back", "top"), held_bytes=40) == 0b101
    unknown = Room(lambda: 0, {"back": 130})
    assert unknown.unfit_bits(("front", "back")) == 0


@on_virtual_time
async def test_an_expert_that_refuses_is_asked_again_later():
    async with ExpertWorld("front", "back") as world:
        await pinned_to_front(world, *"ab")
        rebalancer, context = holder(world)
        world.net.peer("a").served.pop(MOVE)
        world.net.peer("b").served.pop(MOVE)
        await look_for(rebalancer, context, 2 * GAP_GRACE_S + 5)
        assert kinds(context).count("expert.move_refused") >= 2
        assert module.REST_S > GAP_GRACE_S
