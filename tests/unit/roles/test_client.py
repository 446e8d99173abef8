import asyncio

import pytest

from distqatd.base.errors import ComputeError
from distqatd.roles import client as module
from distqatd.roles.client import ClientRole
from distqatd.roles.client_calls import EVALUATE, START, SYNC, Grant, Held, Report
from distqatd.swarm import records as r
from distqatd.wire.payload import Message
from tests.support.contexts import World, kinds
from tests.support.views import record

RUN = "distqat"


class ClientWorld(World):
    """A client `me`, trainers that accept every job, and experts as records."""

    def __init__(self):
        super().__init__()
        self.started = []
        self.local_starts = 0
        self.ctx = self.context("me")
        self.client = ClientRole(self.ctx, self.start_local)

    async def start_local(self):
        self.local_starts += 1
        self.trainer("me")

    def trainer(self, peer, *, announce=False):
        async def start(_, message):
            self.started.append((message.body["pipeline"], peer))
            return Message({})

        self.net.peer(peer).serve(START, start)
        if announce:
            idle = r.TrainerRecord((), 1, -1, (), 0, 0, -1.0, 0.0, 0, 0, 0.0)
            self.board.put(r.trainers_key(RUN), peer, "idle", idle.pack())

    def expert(self, peer, uid, **fields):
        index = 0 if uid.startswith("front") else 1
        self.board.put(r.stage_key(RUN, index), peer, "0", record(uid, **fields).pack())

    async def look(self):
        view = await self.ctx.directory.refresh()
        self.client._plan(view)
        await self.client._staff(view)
        await self.client._finish_if_done(view)
        self.client._publish()

    async def sync(self, trainer, **fields):
        values = {
            "pipeline": 0,
            "term": 1,
            "held": (),
            "num_replayed": 0,
            "num_skipped": 0,
            "lost": (),
            "wants_lease": True,
            "wants_route": True,
            "outer_step": 0,
        }
        report = Report(**{**values, **fields})
        message = Message(report.body())
        reply = await self.net.peer(trainer).call("me", SYNC, message, timeout_s=5)
        return Grant.read(reply.body)


@pytest.fixture
def world():
    return ClientWorld()


async def test_without_a_complete_pipeline_nobody_is_started(world):
    world.expert("a", "front.0.0.0")
    world.trainer("t", announce=True)
    await world.look()
    assert world.started == []


async def test_each_pipeline_gets_the_trainer_with_the_fewest(world):
    for i in range(3):
        world.expert(f"f{i}", f"front.0.{i}.0")
        world.expert(f"b{i}", f"back.0.{i}.0")
    for trainer in ("t1", "t2"):
        world.trainer(trainer, announce=True)
    await world.look()
    assert sorted(world.started) == [(0, "t1"), (1, "t2"), (2, "t1")]


async def test_where_nobody_trains_the_daemon_starts_a_trainer_of_its_own(world):
    world.expert("a", "front.0.0.0")
    world.expert("b", "back.0.0.0")
    await world.look()
    await world.look()
    assert world.local_starts == 1
    assert world.started == [(0, "me")]


async def test_a_trainer_of_its_own_that_cannot_start_is_told_and_nothing_breaks(world):
    async def fail():
        raise ComputeError("no data here")

    client = ClientRole(world.ctx, fail)
    world.client = client
    world.expert("a", "front.0.0.0")
    world.expert("b", "back.0.0.0")
    await world.look()
    assert "trainer.unusable" in kinds(world.ctx)


async def test_a_trainer_that_cannot_be_reached_is_passed_over(world):
    world.expert("a", "front.0.0.0")
    world.expert("b", "back.0.0.0")
    world.trainer("t1", announce=True)
    world.trainer("t2", announce=True)
    world.net.cut("t1")
    await world.look()
    await world.look()
    assert world.started == [(0, "t2")]


async def ready(world):
    world.expert("a", "front.0.0.0")
    world.expert("b", "back.0.0.0")
    world.trainer("t", announce=True)
    await world.look()


async def test_a_trainer_gets_a_lease_and_the_route(world):
    await ready(world)
    grant = await world.sync("t")
    assert (grant.first, grant.end) == (0, world.config.diloco.inner_steps)
    assert [hop.uid for hop in grant.route] == ["front.0.0.0", "back.0.0.0"]
    assert not grant.is_over


async def test_reports_move_the_ledger_and_a_trainer_may_hold_several_leases(world):
    await ready(world)
    first = await world.sync("t")
    held = Held(first.fence, first.first, first.first + 5, first.end)
    second = await world.sync("t", held=(held,))
    assert world.client.ledger.committed == 5
    assert second.first == first.end
    assert second.fence > first.fence
    assert (await world.sync("t", held=(held,), wants_lease=False)).fence == 0


async def test_the_next_trainer_goes_on_where_the_last_one_reported(world, monkeypatch):
    await ready(world)
    first = await world.sync("t")
    held = Held(first.fence, first.first, first.first + 5, first.end)
    await world.sync("t", held=(held,), wants_lease=False)
    monkeypatch.setattr(module, "TRAINER_SILENT_S", -1.0)
    await world.look()
    again = await world.sync("t")
    assert (again.first, again.end) == (5, first.end)
    late = await world.sync("t", held=(Held(first.fence, 0, 9, first.end),), wants_lease=False)
    assert late.is_over
    assert world.client.ledger.lost() == 0


async def test_another_trainer_is_told_that_it_is_over(world):
    await ready(world)
    grant = await world.sync("stranger")
    assert grant.is_over
    assert grant.route == ()


async def test_a_peer_reported_lost_is_not_in_the_next_route(world):
    await ready(world)
    world.expert("c", "back.0.1.0")
    await world.look()
    grant = await world.sync("t", lost=("b",))
    assert [hop.peer_id for hop in grant.route] == ["a", "c"]


async def test_while_a_gap_lasts_the_trainer_gets_no_route(world):
    await ready(world)
    assert (await world.sync("t", lost=("b",))).route == ()


async def test_a_silent_trainer_is_replaced(world, monkeypatch):
    await ready(world)
    world.trainer("u", announce=True)
    monkeypatch.setattr(module, "TRAINER_SILENT_S", -1.0)
    await world.look()
    assert "trainer.lost" in kinds(world.ctx)
    assert [number for number, _ in world.started] == [0, 0]


async def test_the_run_is_finished_when_every_expert_has_taken_the_last_outer_step(world):
    await ready(world)
    last = world.config.diloco.outer_steps

    async def evaluate(_, __):
        return Message({"sums": {"loss": 5.0, "correct": 9.0, "count": 10.0}})

    world.net.peer("t").serve(EVALUATE, evaluate)
    world.expert("a", "front.0.0.0", outer_step=last)
    await world.look()
    assert not world.client.is_finished
    world.expert("b", "back.0.0.0", outer_step=last)
    await world.look()
    assert world.client.is_finished
    assert (world.client.eval_loss, world.client.eval_accuracy) == (0.5, 0.9)
    assert (await world.sync("t")).is_over
    (lease,) = await world.board.get(r.leases_key(RUN))
    assert r.LeaseRecord.parse(lease.value).is_finished


async def test_a_gap_is_news_only_after_the_stage_was_served(world):
    await world.look()
    assert not [event for event in world.ctx.events.since() if event.degraded]
    world.expert("a", "front.0.0.0")
    await world.look()
    world.board.drop("a")
    await world.look()
    news = [event for event in world.ctx.events.since() if event.degraded]
    assert [(event.kind, event.fields["stage"]) for event in news] == [("stage.gap", "front")]


async def test_run_looks_at_the_swarm_again_and_again(world):
    seen = []
    world.client._plan = seen.append

    async def staff(_):
        if len(seen) == 3:
            raise asyncio.CancelledError

    world.client._staff = staff
    run = asyncio.ensure_future(world.client.run())
    for _ in range(3):
        await asyncio.sleep(0)
        world.ctx.directory._updated.set()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await run
