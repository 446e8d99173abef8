import asyncio

import pytest

from distqatd.base.errors import StaleTerm
from distqatd.pipeline.messages import FORWARD
from distqatd.roles.client_calls import (
    ADOPT,
    EVALUATE,
    START,
    STOP,
    read_reports,
)
from distqatd.roles.trainer_steps import MAX_NON_FINITE
from distqatd.swarm.routes import route_body
from distqatd.wire.payload import Message
from tests.support.contexts import kinds
from tests.support.loops import on_virtual_time
from tests.support.trainers import Episodes, TrainerWorld


@on_virtual_time
async def test_a_job_trains_lease_after_lease_and_reports_until_it_is_over():
    async with TrainerWorld().running() as world:
        await world.train()
        world.assert_trained(range(8))
        first, *_, last = world.client.reports
        assert (first.held, first.wants_lease, first.wants_route) == ((), True, True)
        assert (last.held[-1].next, last.num_replayed, last.lost) == (8, 0, ())
        assert world.records()["0"].step == 8
        assert kinds(world.ctx)[-1] == "trainer.ended"


@on_virtual_time
async def test_a_step_that_fails_is_run_again_on_the_route_that_the_client_then_names():
    world = TrainerWorld()
    forwards = []

    def cut_once(_, callee, method):
        if method == FORWARD and callee == "p1.0":
            forwards.append(callee)
            if len(forwards) == 3:
                world.net.cut("p1.0")

    world.net.on_call = cut_once
    world.client.on_lost = lambda: world.net.heal("p1.0")
    async with world.running():
        await world.train()
        world.assert_trained(range(8))
        [failed] = [report for report in world.client.reports if report.lost]
        assert failed.lost == ("p1.0",)
        assert (failed.num_replayed, failed.wants_route) == (1, True)
        assert "step.aborted" in kinds(world.ctx)


@on_virtual_time
async def test_a_client_that_fails_is_asked_again():
    async with TrainerWorld(total=4).running() as world:
        world.client.failing = 3
        await world.train()
        world.assert_trained(range(4))
        assert kinds(world.ctx).count("client.silent") == 3


@on_virtual_time
async def test_a_trainer_keeps_in_touch_while_a_step_hangs():
    world = TrainerWorld(total=1)
    world.net.delay(FORWARD, 4.5)  # of each of two hops: under the deadline of the step
    async with world.running():
        await world.train()
        middle = world.client.reports[1:-1]
        assert len(middle) >= 9
        assert {report.held[0].next for report in middle} == {0}
        assert not any(report.wants_lease or report.wants_route for report in middle[1:-2])
        world.assert_trained(range(1))


@on_virtual_time
async def test_a_batch_that_never_has_a_finite_loss_is_skipped_and_told():
    world = TrainerWorld()
    world.data.broken = {2}
    async with world.running():
        await world.train()
        world.assert_trained([0, 1, 3, 4, 5, 6, 7])
        assert sum(report.num_replayed for report in world.client.reports) == MAX_NON_FINITE
        assert sum(report.num_skipped for report in world.client.reports) == 1
        assert kinds(world.ctx).count("batch.skipped") == 1


@on_virtual_time
async def test_two_broken_batches_in_a_row_get_three_tries_each():
    world = TrainerWorld()
    world.data.broken = {0, 1}
    async with world.running():
        await world.train()
        world.assert_trained(range(2, 8))
        assert sum(report.num_replayed for report in world.client.reports) == 2 * MAX_NON_FINITE
        assert sum(report.num_skipped for report in world.client.reports) == 2


@on_virtual_time
async def test_a_job_that_is_stopped_ends_and_its_record_goes():
    world = TrainerWorld(total=10**6)
    async with world.running():
        await world.ask(START, pipeline=0, term=1)
        await world.ask(START, pipeline=0, term=1)  # a repetition starts nothing
        await asyncio.sleep(1.5)
        assert kinds(world.ctx).count("trainer.started") == 1
        assert world.records()["0"].route == ("front.0.0.0", "back.0.0.0")
        await world.ask(STOP, pipeline=0, term=1)
        assert world.trainer.jobs == {}
        assert set(world.records()) == {"idle"}


@on_virtual_time
async def test_another_client_takes_a_job_over():
    world = TrainerWorld(total=10**6)
    async with world.running():
        await world.ask(START, pipeline=0, term=1)
        other = world.net.peer("another")
        await other.call("trainer", START, Message({"pipeline": 0, "term": 2}), timeout_s=5)
        assert world.trainer.jobs[0].client == "another"


@on_virtual_time
async def test_a_client_with_a_higher_term_adopts_the_jobs_and_the_old_one_is_refused():
    world = TrainerWorld(total=10**6)
    async with world.running():
        await world.ask(START, pipeline=0, term=1)
        await asyncio.sleep(1.5)
        other = world.net.peer("another")
        await other.call("trainer", ADOPT, Message({"term": 1}), timeout_s=5)
        assert world.trainer.jobs[0].client == "client"
        reply = await other.call("trainer", ADOPT, Message({"term": 2}), timeout_s=5)
        (report,) = read_reports(reply.body)
        assert (report.pipeline, report.term, len(report.held)) == (0, 2, 4)
        for method in (START, STOP):
            with pytest.raises(StaleTerm):
                await world.ask(method, pipeline=0, term=1)
        assert world.trainer.jobs[0].client == "another"


@on_virtual_time
async def test_the_anchors_are_evaluated_over_all_validation_batches():
    async with TrainerWorld().running() as world:
        reply = await world.ask(EVALUATE, route=route_body(world.pipeline.route))
        assert reply.body["sums"]["count"] == 16
        assert 0 <= reply.body["sums"]["correct"] <= 16
        assert reply.body["sums"]["loss"] == pytest.approx(16 * 1.4, rel=0.5)
        assert "return" not in reply.body["sums"]


@on_virtual_time
async def test_the_anchors_of_a_policy_are_tried_in_its_environment():
    async with TrainerWorld().running() as world:
        world.data.episodes = Episodes()
        reply = await world.ask(EVALUATE, route=route_body(world.pipeline.route))
        assert reply.body["sums"]["count"] == 16
        assert (reply.body["sums"]["return"], reply.body["sums"]["episodes"]) == (3, 2)
        assert len(set(world.data.episodes.seen)) == 1
