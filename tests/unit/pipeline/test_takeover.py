"""A trainer may die at any moment: the one that takes over loses no batch and repeats none."""

import asyncio

import pytest
import torch

from distqatd.base.intervals import IntervalSet
from distqatd.pipeline import messages as m
from distqatd.wire.payload import Message
from tests.support.inline_executor import InlineExecutor
from tests.support.loops import on_virtual_time
from tests.support.pipelines import Pipeline, batch, train_plain

BATCHES = 3
COST_S = 0.002
ALL = IntervalSet(((0, BATCHES),))


class Died(Exception):
    """The trainer is dead."""


class Trainer:
    """Trains batches 0 to 2 in order, and knows what it would have reported as committed."""

    def __init__(self, pipeline, name, fence):
        self.rpc = pipeline.net.peer(name, ("trainer",))
        self.runner = pipeline.runner(fence=fence, rpc=self.rpc)
        self.next = 0

    async def run(self, first):
        self.next = max(first, await self.runner.open(first, BATCHES))
        while self.next < BATCHES:
            await self.runner.step(batch(self.next), self.next)
            self.next += 1
        await self.runner.flush()

    @property
    def committed(self):
        unconfirmed = self.runner.unconfirmed
        return self.next if unconfirmed is None else unconfirmed


def books(pipeline):
    found = pipeline.hosted.values()
    return [hosted.expert.book.local for hosted in found]


def assert_exactly_once(pipeline, *, same_numbers):
    assert books(pipeline) == [ALL] * len(pipeline.hosted)
    assert [h.expert.inner_step for h in pipeline.hosted.values()] == [BATCHES] * 2
    if not same_numbers:
        return
    _, plain = train_plain(range(BATCHES))
    for name, tensor in pipeline.state().items():
        assert torch.allclose(tensor, plain[name], atol=1e-6), name


async def take_over(pipeline, dead):
    """Check what the dead trainer has told, and train the rest from there.

    Where one stage alone had applied the last step, the others take its gradients behind stages
    that have moved on: the batch counts once everywhere, but not with the same numbers.
    """
    front, back = books(pipeline)
    told = IntervalSet.from_pairs([(0, dead.committed)])
    assert not told.minus(front)
    assert not told.minus(back)
    await Trainer(pipeline, "another", 2).run(dead.committed)
    assert_exactly_once(pipeline, same_numbers=front == back)


async def crash_after(seconds):
    """Kill a trainer after a while; return how long it would have taken."""
    pipeline = Pipeline("front", "back", executor=lambda: InlineExecutor(COST_S))
    trainer = Trainer(pipeline, "trainer", 1)
    work = asyncio.ensure_future(trainer.run(0))
    began = asyncio.get_running_loop().time()
    await asyncio.wait([work], timeout=seconds)
    took_s = asyncio.get_running_loop().time() - began
    work.cancel()
    pipeline.net.cut("trainer")
    await asyncio.wait([work])
    await take_over(pipeline, trainer)
    return took_s


@on_virtual_time
async def test_a_trainer_that_dies_at_any_time_is_taken_over_exactly():
    whole_s = await crash_after(10.0)
    num_moments = round(4 * whole_s / COST_S)
    assert num_moments > 40
    for moment in range(num_moments):
        await crash_after(moment * COST_S / 4)


async def crash_at_call(number, *, arrives):
    """Kill a trainer when it makes its call of that number, before or after it is heard."""
    pipeline = Pipeline("front", "back")
    trainer = Trainer(pipeline, "trainer", 1)
    plain_call, num_calls = trainer.rpc.call, 0

    async def call(peer, method, message, **options):
        nonlocal num_calls
        num_calls += 1
        if num_calls == number:
            if arrives:
                await plain_call(peer, method, message, **options)
            raise Died
        return await plain_call(peer, method, message, **options)

    trainer.rpc.call = call
    work = asyncio.ensure_future(trainer.run(0))
    await asyncio.wait([work])
    assert (work.exception() is not None) == (num_calls >= number)
    pipeline.net.cut("trainer")
    await take_over(pipeline, trainer)
    return num_calls >= number


@on_virtual_time
@pytest.mark.parametrize("arrives", [False, True])
async def test_a_trainer_that_dies_between_two_calls_is_taken_over_exactly(arrives):
    number = 1
    while await crash_at_call(number, arrives=arrives):
        number += 1
    assert number == 8  # OPEN and COMMIT to two stages, FORWARD of three batches


@on_virtual_time
@pytest.mark.parametrize("told", ["front", "back"])
async def test_a_decision_that_only_one_stage_has_heard_is_applied_once_by_each(told):
    pipeline = Pipeline("front", "back")
    trainer = Trainer(pipeline, "trainer", 1)
    await trainer.runner.open(0, BATCHES)
    await trainer.runner.step(batch(0), 0)
    hop = next(hop for hop in pipeline.route if hop.uid.startswith(told))
    call = m.CommitCall(hop.uid, trainer.runner.session, m.Decided(1, 8, 0))
    await trainer.rpc.call(hop.peer_id, m.COMMIT, Message(call.body()), timeout_s=1)
    assert sorted(map(len, books(pipeline))) == [0, 1]
    await take_over(pipeline, trainer)


@on_virtual_time
async def test_a_lease_that_is_done_everywhere_is_not_trained_again():
    pipeline = Pipeline("front", "back")
    await Trainer(pipeline, "trainer", 1).run(0)
    again = Trainer(pipeline, "another", 2)
    await again.run(0)
    assert again.next == BATCHES
    assert [method for _, _, method in pipeline.net.calls].count(m.FORWARD) == 2 * BATCHES
    assert_exactly_once(pipeline, same_numbers=True)


@on_virtual_time
async def test_a_commit_that_comes_again_after_the_session_is_answered_by_the_book():
    pipeline = Pipeline("front", "back")
    trainer = Trainer(pipeline, "trainer", 1)
    await trainer.run(0)
    hop, session = pipeline.route[0], trainer.runner.session
    await trainer.runner.abort("the end")
    late = m.CommitCall(hop.uid, session, m.Decided(BATCHES, 8, BATCHES - 1))
    reply = await trainer.rpc.call(hop.peer_id, m.COMMIT, Message(late.body()), timeout_s=1)
    assert m.Standing.read(reply.body).inner_step == BATCHES


@on_virtual_time
async def test_an_experts_book_can_be_asked_for():
    pipeline = Pipeline("front", "back")
    await Trainer(pipeline, "trainer", 7).run(0)
    reply = await pipeline.rpc.call("p1.0", m.BOOK, Message({"uid": "back.0.0.0"}), timeout_s=1)
    found = m.BookReply.read(reply.body)
    assert (found.book.local, found.fence, found.outer_step) == (ALL, 7, 0)


@on_virtual_time
async def test_a_stage_that_was_replaced_trains_what_the_dead_one_took_with_it():
    pipeline = Pipeline("front", "back")
    trainer = Trainer(pipeline, "trainer", 1)
    await trainer.run(0)
    spare = pipeline.host(1, replica=1)
    pipeline.net.cut("trainer")
    route = (pipeline.route[0], spare)
    other = pipeline.runner(route=route, fence=2, rpc=pipeline.net.peer("another"))
    assert await other.open(0, BATCHES) == 0
    for number in range(BATCHES):
        await other.step(batch(number), number)
    await other.flush()
    steps = {uid: hosted.expert.inner_step for uid, hosted in pipeline.hosted.items()}
    assert steps == {"front.0.0.0": BATCHES, "back.0.0.0": BATCHES, "back.0.1.0": BATCHES}
