"""Trainers that get over lost experts, other routes and other clients, seen from their client."""

import asyncio

from distqatd.roles.client_calls import SYNC, Grant, Report
from distqatd.roles.trainer_line import find_client
from distqatd.swarm import records as r
from distqatd.swarm.view import SwarmView
from distqatd.wire.payload import Message
from tests.support.contexts import kinds
from tests.support.loops import on_virtual_time
from tests.support.trainers import TrainerWorld

MANY = 10**6


def events(world, kind):
    return [event for event in world.ctx.events.since() if event.kind == kind]


async def until(predicate, limit_s=30.0):
    async with asyncio.timeout(limit_s):
        while not predicate():  # noqa: ASYNC110  on virtual time
            await asyncio.sleep(0.01)


def num_steps(world):
    return world.trainer.jobs[0].progress.step


@on_virtual_time
async def test_after_an_expert_died_a_spare_takes_the_next_step_at_once():
    world = TrainerWorld(total=MANY)
    spare = world.pipeline.host(1, replica=1)
    async with world.running():
        await world.start()
        await until(lambda: num_steps(world) > 10)
        front, back = world.pipeline.route
        world.client.on_lost = lambda: setattr(world.client, "route", (front, spare))
        before, began = num_steps(world), asyncio.get_running_loop().time()
        world.net.cut(back.peer_id)
        await until(lambda: num_steps(world) > before + 1)
        assert asyncio.get_running_loop().time() - began < 0.3
        assert [report.lost for report in world.client.reports if report.lost] == [("p1.0",)]
        assert world.pipeline.hosted[spare.uid].expert.inner_step >= 1
        [why] = [reason for reason in world.ctx.reasons.all() if reason.kind == "route"]
        assert why.subject == "pipeline 0"
        assert why.text.startswith("front.0.0.0 back.0.1.0: the one before failed: ")


@on_virtual_time
async def test_another_route_is_taken_at_a_step_boundary_and_nothing_is_aborted():
    world = TrainerWorld(total=MANY)
    spare = world.pipeline.host(1, replica=1)
    async with world.running():
        await world.start()
        await until(lambda: num_steps(world) > 10)
        world.client.route = (world.pipeline.route[0], spare)
        await until(lambda: events(world, "pipeline.rerouted"))
        before = num_steps(world)
        await until(lambda: num_steps(world) > before + 5)
        assert events(world, "step.aborted") == events(world, "route.failed") == []
        assert world.trainer.jobs[0].progress.num_replayed == 0
        left = world.pipeline.hosted["back.0.0.0"]
        assert left.session is None
        assert not left.expert.step_is_open
        front = world.pipeline.hosted["front.0.0.0"].expert
        both = left.expert.inner_step + world.pipeline.hosted[spare.uid].expert.inner_step
        assert front.inner_step == both


@on_virtual_time
async def test_training_goes_on_while_the_client_is_gone():
    world = TrainerWorld(total=MANY)
    async with world.running():
        await world.start()
        await until(lambda: num_steps(world) > 4)
        held = world.trainer.jobs[0].leases.num_left
        assert held > 4
        before = num_steps(world)
        world.net.cut("client")
        await until(lambda: num_steps(world) == before + held)
        assert events(world, "step.aborted") == []
        world.net.heal("client")
        await until(lambda: num_steps(world) > before + held)


@on_virtual_time
async def test_a_trainer_finds_the_client_that_has_the_duty_now():
    world = TrainerWorld(total=MANY)
    asked = []

    async def sync(_, message):
        report = Report.read(message.body)
        asked.append(report.term)
        first = max((held.end for held in report.held), default=0)
        route = world.pipeline.route
        return Message(Grant(2, 100 + first, first, first + 4, route, False, "", 99).body())

    world.net.peer("another").serve(SYNC, sync)
    async with world.running():
        await world.start()
        await until(lambda: num_steps(world) > 2)
        world.net.cut("client")
        world.ctx.directory.view = SwarmView((), leases={"another": duty(2), "client": duty(1)})
        await until(lambda: asked)
        await until(lambda: world.trainer.jobs[0].term == 2)
        assert asked[0] == 1
        assert world.trainer.jobs[0].client == "another"
        assert events(world, "client.found")[0].fields["peer"] == "another"


@on_virtual_time
async def test_an_answer_of_an_old_term_is_not_taken():
    world = TrainerWorld(total=MANY)
    async with world.running():
        await world.start()
        await until(lambda: num_steps(world) > 2)
        world.trainer.jobs[0].term = 5
        held = world.trainer.jobs[0].leases.held(None)[-1].fence
        await asyncio.sleep(3.0)
        assert world.trainer.jobs[0].leases.held(None)[-1].fence == held
        assert "client.silent" in kinds(world.ctx)


@on_virtual_time
async def test_a_batch_is_reported_as_committed_only_when_every_stage_has_it():
    world = TrainerWorld(total=MANY)
    seen = []

    def look(caller, callee, method):
        if method == SYNC:
            seen.append(min(len(h.expert.book.local) for h in world.pipeline.hosted.values()))

    world.net.on_call = look
    async with world.running():
        await world.start()
        await asyncio.sleep(3.0)
        told = [sum(h.next - h.first for h in report.held) for report in world.client.reports]
        done = [world.client.forgotten[i] + told[i] for i in range(len(told))]
        assert all(said <= known for said, known in zip(done, seen, strict=True))
        assert done[-1] > 10


def duty(term):
    return r.LeaseRecord((), 1, term, 0, 0, 0, 0, 0, 0, 0, False, 0.0, -1.0, -1.0)


def test_the_client_with_the_highest_term_is_the_one_to_ask():
    view = SwarmView((), leases={"a": duty(3), "b": duty(4)})
    assert find_client(view, "a", 3).value == "b"
    assert find_client(view, "a", 4).value == "a"
    assert find_client(view, "b", 3).value == "b"
    assert find_client(SwarmView(()), "a", 0).value == "a"
    assert "b has the duty with term 4" in find_client(view, "a", 3).reason
