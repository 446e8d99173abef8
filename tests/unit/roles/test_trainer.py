import asyncio
from contextlib import asynccontextmanager

import pytest
import torch

from distqatd.base.errors import StaleTerm, SwarmError
from distqatd.base.intervals import IntervalSet
from distqatd.base.rng import seeded_rng
from distqatd.base.tasks import Supervisor
from distqatd.config.sections import Config
from distqatd.data.batches import Batch
from distqatd.pipeline.messages import FORWARD
from distqatd.roles.client_calls import (
    ADOPT,
    EVALUATE,
    START,
    STOP,
    SYNC,
    Grant,
    Report,
    read_reports,
)
from distqatd.roles.trainer import TrainerRole
from distqatd.roles.trainer_steps import MAX_NON_FINITE
from distqatd.swarm import records as r
from distqatd.swarm.routes import route_body
from distqatd.wire.payload import Message
from tests.support.contexts import World, kinds
from tests.support.inline_executor import InlineExecutor
from tests.support.loops import on_virtual_time
from tests.support.pipelines import Pipeline, batch, train_plain

LEASE = 4


class Data:
    """Batches by number; those in `broken` have no finite loss."""

    def __init__(self):
        self.broken = set()

    def batch(self, number):
        made = batch(number)
        if number not in self.broken:
            return made
        return Batch((made.inputs[0] * float("nan"),), made.targets, made.num_samples)

    def validation_batches(self):
        yield batch(1000)
        yield batch(1001)


class Client:
    """Lends batches 0 to `total` - 1 over one route, and keeps the reports."""

    def __init__(self, world, total):
        self.total, self.world = total, world
        self.reports = []
        self.failing = 0
        self.fence = self.session = self.next = 0
        self.done = IntervalSet()
        self.rpc = world.net.peer("client")
        self.rpc.serve(SYNC, self.sync)

    async def sync(self, _, message):
        report = Report.read(message.body)
        self.reports.append(report)
        if self.failing:
            self.failing -= 1
            raise SwarmError("not now")
        for peer in report.lost:
            self.world.net.heal(peer)
        for held in report.held:
            self.done = self.done.add(held.first, held.next)
        if len(self.done) >= self.total:
            return Message(Grant(1, 0, 0, 0, (), is_over=True, reason="done").body())
        fence = first = end = 0
        if report.wants_lease and self.next < self.total:
            first, end = self.next, min(self.next + LEASE, self.total)
            self.next = end
            self.fence += 1
            fence = self.fence
        self.session += 1
        return Message(
            Grant(1, fence, first, end, self.route, False, "", session=self.session).body()
        )

    @property
    def route(self):
        return self.world.pipeline.route


class TrainerWorld(World):
    """A trainer `trainer` with two real experts, and a client."""

    def __init__(self, total=8):
        super().__init__(Config())
        self.pipeline = Pipeline("front", "back")
        self.net = self.pipeline.net
        self.config = self.config.model_copy(
            update={"diloco": self.pipeline.diloco, "model_pipeline": self.pipeline.model}
        )
        self.client = Client(self, total)
        self.data = Data()
        self.total = total

    @asynccontextmanager
    async def running(self):
        async with Supervisor("test", seeded_rng("tasks")) as tasks:
            self.ctx = self.context("trainer", tasks, ("trainer",))
            self.trainer = TrainerRole(self.ctx, self.data, InlineExecutor(0.01), None)
            tasks.spawn(self.trainer.run(), name="trainer")
            yield self

    async def ask(self, method, **body):
        return await self.client.rpc.call("trainer", method, Message(body), timeout_s=5)

    async def train(self):
        await self.ask(START, pipeline=0, term=1)
        while self.trainer.jobs:  # noqa: ASYNC110  on virtual time
            await asyncio.sleep(0.05)

    def assert_trained(self, numbers):
        _, plain = train_plain(numbers)
        for name, tensor in self.pipeline.state().items():
            assert torch.allclose(tensor, plain[name], atol=1e-6), name

    def records(self):
        found = self.board.records.items()
        return {slot[2]: r.TrainerRecord.parse(s.value) for slot, s in found}


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
