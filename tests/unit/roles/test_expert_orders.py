"""What experts do when they are told to drain, to resume, or to serve another stage."""

import asyncio
from types import SimpleNamespace

import pytest

from distqatd.base.errors import SwarmError
from distqatd.roles.drain import LINGER_S
from distqatd.swarm import records as r
from tests.support.contexts import kinds
from tests.support.expert_roles import ExpertWorld
from tests.support.loops import on_virtual_time


def order(world, work):
    """Give an order without waiting for it; the outcome comes in the list that is returned."""
    outcomes = []

    async def run():
        outcomes.append(await work)

    world.tasks.spawn(run(), name="order")
    return outcomes


def drain(world, peer, deadline_s=60.0):
    return world.roles[peer].drain(deadline_s=deadline_s, reason="a test asks for it")


def trainer_on(world, peer):
    """Let a trainer's session stand open on an expert; the call that closes it is returned."""
    hosted = world.roles[peer].hosted

    async def aborted(*_):
        hosted.session = None

    hosted.session = SimpleNamespace(
        id=SimpleNamespace(fence=7), is_idle=True, route=(), trainer="t" * 52, close_reason=""
    )
    hosted.abort = aborted
    return aborted


def records_of(world, peer):
    return [key for key, owner, _ in world.board.records if owner == peer]


@on_virtual_time
async def test_a_spare_that_drains_is_gone_in_a_moment_and_takes_its_records_back():
    async with ExpertWorld("full") as world:
        world.start("a", "b")
        await world.serving("a", "b")
        outcome = await drain(world, "b")
        assert outcome.is_done
        assert outcome.num_dropped == 0
        assert outcome.seconds <= LINGER_S + 0.2
        await asyncio.sleep(0)
        assert world.roles["b"].state == r.DRAINED
        assert records_of(world, "b") == []
        assert world.roles["a"].state == r.SERVING


@on_virtual_time
async def test_the_swarm_sees_at_once_that_an_expert_drains():
    async with ExpertWorld("full") as world:
        world.start("a", "b")
        await world.serving("a", "b")
        order(world, drain(world, "b"))
        await asyncio.sleep(0.2)
        view = await world.contexts["a"].directory.refresh()
        assert [e.peer_id for e in view.stage("full").serving] == ["a"]
        assert [e.peer_id for e in view.stage("full").members] == ["a", "b"]


@on_virtual_time
async def test_what_a_drained_expert_has_trained_counts_in_the_next_outer_step():
    async with ExpertWorld("full") as world:
        world.start("a", "b")
        await world.serving("a", "b")
        world.train("a", 0)
        world.train("b", 1)
        world.publish("a")
        outcomes = order(world, drain(world, "a"))
        await asyncio.sleep(20)
        assert outcomes == []  # it waits for the round
        world.round("b")
        await asyncio.sleep(6)
        [outcome] = outcomes
        assert (outcome.is_done, outcome.num_dropped) == (True, 0)
        [record] = [r for r in world.roles["b"]._parts.averager.rounds if r.outcome == "committed"]
        assert len(record.members) == 2
        assert record.weights["full.0.0.0"] == 0.5


@on_virtual_time
async def test_a_drain_that_no_round_comes_for_calls_one():
    async with ExpertWorld("full") as world:
        world.start("a", "b")
        await world.serving("a", "b")
        world.train("a", 0)
        outcome = await drain(world, "a", deadline_s=20.0)
        assert outcome.is_done
        assert outcome.num_dropped == 0
        assert 10.0 <= outcome.seconds < 13.0
        assert world.roles["b"].hosted.expert.outer_step == 1


@on_virtual_time
async def test_samples_that_a_drain_has_no_time_for_are_told():
    async with ExpertWorld("full") as world:
        world.start("a", "b")
        await world.serving("a", "b")
        world.train("a", 0)
        outcome = await drain(world, "a", deadline_s=0.0)
        assert outcome.is_done
        assert outcome.num_dropped == 8
        assert "8 samples dropped" in outcome.reason
        [told] = [e for e in world.contexts["a"].events.since() if e.kind == "expert.drained"]
        assert told.degraded
        assert told.fields["samples_dropped"] == 8


@on_virtual_time
async def test_the_only_replica_takes_its_last_outer_step_alone():
    async with ExpertWorld("full") as world:
        world.start("a")
        await world.serving("a")
        world.train("a", 0)
        outcome = await drain(world, "a")
        assert outcome.num_dropped == 0
        assert "round.committed" in kinds(world.contexts["a"])


@on_virtual_time
async def test_an_expert_stays_until_its_trainer_has_left():
    async with ExpertWorld("full") as world:
        world.start("a", "b")
        await world.serving("a", "b")
        leave = trainer_on(world, "a")
        outcomes = order(world, drain(world, "a"))
        await asyncio.sleep(10)
        assert outcomes == []
        await leave()
        await asyncio.sleep(LINGER_S + 0.2)
        assert outcomes[0].num_cut == 0


@on_virtual_time
async def test_a_session_that_outlasts_the_deadline_is_cut_and_told():
    async with ExpertWorld("full") as world:
        world.start("a", "b")
        await world.serving("a", "b")
        trainer_on(world, "a")
        outcome = await drain(world, "a", deadline_s=4.0)
        assert outcome.num_cut == 1
        assert outcome.seconds == pytest.approx(4.0, abs=0.2)


@on_virtual_time
async def test_a_drain_that_is_taken_back_leaves_the_expert_serving():
    async with ExpertWorld("full") as world:
        world.start("a", "b")
        await world.serving("a", "b")
        world.train("a", 0)
        outcomes = order(world, drain(world, "a"))
        await asyncio.sleep(3)
        assert (await world.roles["a"].resume()).is_done
        await asyncio.sleep(0.2)
        assert not outcomes[0].is_done
        assert world.roles["a"].state == r.SERVING
        assert world.expert("a").samples_since_anchor == 8
        view = await world.contexts["b"].directory.refresh()
        assert len(view.stage("full").serving) == 2


@on_virtual_time
async def test_an_order_that_is_cancelled_leaves_the_expert_serving():
    async with ExpertWorld("full") as world:
        world.start("a", "b")
        await world.serving("a", "b")
        world.train("a", 0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await drain(world, "a")
        assert world.roles["a"].state == r.SERVING


@on_virtual_time
async def test_a_second_drain_hurries_the_first():
    async with ExpertWorld("full") as world:
        world.start("a", "b")
        await world.serving("a", "b")
        world.train("a", 0)
        outcomes = order(world, drain(world, "a", deadline_s=500.0))
        await asyncio.sleep(3)
        await drain(world, "a", deadline_s=1.0)
        await asyncio.sleep(0)
        assert outcomes[0].seconds < 5


@on_virtual_time
async def test_a_drained_expert_resumes_in_the_stage_it_left():
    async with ExpertWorld("front", "back") as world:
        world.start("a", "b", "c")
        uids = dict(zip("abc", await world.serving("a", "b", "c"), strict=True))
        assert (await world.roles["b"].resume()).is_done is False  # it serves
        await drain(world, "b")
        await asyncio.sleep(0.1)
        assert (await world.roles["b"].resume()).is_done
        [uid] = await world.serving("b")
        assert uid.split(".")[0] == uids["b"].split(".")[0]


@on_virtual_time
async def test_a_last_replica_that_resumes_has_the_anchor_it_left_with():
    async with ExpertWorld("full") as world:
        world.start("a")
        await world.serving("a")
        world.advance("a", times=3)
        digest = world.expert("a").anchor_digest
        await drain(world, "a")
        await asyncio.sleep(0.1)
        await world.roles["a"].resume()
        await world.serving("a")
        assert (world.expert("a").outer_step, world.expert("a").anchor_digest) == (3, digest)


@on_virtual_time
async def test_an_expert_that_joins_only_now_does_not_serve_when_it_is_drained_before():
    async with ExpertWorld("full") as world:
        world.start("a")
        await asyncio.sleep(0.1)
        assert (await drain(world, "a")).is_done
        await asyncio.sleep(10)
        assert world.roles["a"].state == r.DRAINED
        assert records_of(world, "a") == []
        await world.roles["a"].resume()
        assert await world.serving("a") == ["full.0.0.0"]


# --- reassign


def reassign(world, peer, stage, **options):
    return world.roles[peer].reassign(stage, deadline_s=30.0, reason="a test asks", **options)


@on_virtual_time
async def test_an_expert_moves_to_another_stage_in_its_daemon():
    async with ExpertWorld("front", "back") as world:
        world.start("a", "b", "c", "d")
        uids = await world.serving("a", "b", "c", "d")
        mover = "abcd"[next(i for i, uid in enumerate(uids) if uid.startswith("front"))]
        outcome = await reassign(world, mover, "back")
        assert outcome.is_done, outcome
        assert outcome.reason == "serves back.0.2.0"
        assert world.roles[mover].hosted.uid == "back.0.2.0"
        await asyncio.sleep(6)
        assert len(records_of(world, mover)) == 1
        assert any(reason.kind == "move" for reason in world.contexts[mover].reasons.all())


@on_virtual_time
async def test_a_moved_expert_has_the_newest_state_of_its_new_stage():
    async with ExpertWorld("front", "back") as world:
        world.start("a", "b", "c")
        uids = dict(zip("abc", await world.serving("a", "b", "c"), strict=True))
        fronts = [peer for peer, uid in uids.items() if uid.startswith("front")]
        [back] = [peer for peer in "abc" if peer not in fronts]
        hosted = world.expert(back)
        given = hosted.contribution()
        hosted.commit_outer(given.pseudo_gradient, 1, {})
        world.publish(back)
        await reassign(world, fronts[0], "back")
        assert world.expert(fronts[0]).anchor_digest == hosted.anchor_digest
        assert world.expert(fronts[0]).outer_step == 1


@on_virtual_time
async def test_a_stage_that_is_not_there_or_is_served_already_moves_nobody():
    async with ExpertWorld("front", "back") as world:
        world.start("a", "b")
        await world.serving("a", "b")
        stage = world.roles["a"].slot.stage
        with pytest.raises(SwarmError, match="no stage 'side'"):
            await reassign(world, "a", "side")
        outcome = await reassign(world, "a", stage)
        assert outcome.reason == f"it serves {stage} already"
        assert world.roles["a"].state == r.SERVING


@on_virtual_time
async def test_a_move_into_a_gap_is_given_up_when_another_fills_it():
    async with ExpertWorld("front", "back") as world:
        world.start("a", "b", "c")
        await world.serving("a", "b", "c")
        stage = world.roles["c"].slot.stage
        other = "front" if stage == "back" else "back"
        with pytest.raises(SwarmError, match="no gap any more"):
            await reassign(world, "c", other, only_gap=True)
        assert world.roles["c"].slot.stage == stage
        assert world.roles["c"].state == r.SERVING


@on_virtual_time
async def test_a_drained_expert_joins_the_stage_it_is_reassigned_to():
    async with ExpertWorld("front", "back") as world:
        world.start("a", "b", "c")
        await world.serving("a", "b", "c")
        other = "back" if world.roles["c"].slot.stage == "front" else "front"
        await drain(world, "c")
        await asyncio.sleep(0.1)
        outcome = await reassign(world, "c", other)
        assert outcome.is_done
        assert world.roles["c"].slot.stage == other


@on_virtual_time
async def test_a_drain_in_the_middle_of_a_move_wins():
    async with ExpertWorld("front", "back") as world:
        world.start("a", "b", "c", "d")
        await world.serving("a", "b", "c", "d")
        other = "back" if world.roles["d"].slot.stage == "front" else "front"
        trainer_on(world, "d")
        moved = order(world, reassign(world, "d", other))
        await asyncio.sleep(3)
        assert (await drain(world, "d", deadline_s=1.0)).is_done
        await asyncio.sleep(10)
        assert not moved[0].is_done
        assert world.roles["d"].state == r.DRAINED
        assert records_of(world, "d") == []


@on_virtual_time
async def test_a_last_replica_that_drains_hands_its_state_to_whoever_comes_meanwhile():
    async with ExpertWorld("full") as world:
        world.start("a")
        await world.serving("a")
        world.advance("a", times=2)
        trainer_on(world, "a")
        order(world, drain(world, "a", deadline_s=60.0))
        await asyncio.sleep(1)
        world.start("b")
        assert await world.serving("b") == ["full.0.1.0"]
        assert world.expert("b").outer_step == 2
        assert world.expert("b").anchor_digest == world.expert("a").anchor_digest
