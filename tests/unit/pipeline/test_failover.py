"""A step that cannot go on fails at once, says who is gone, and leaves nothing behind."""

import asyncio

import pytest

from distqatd.base.errors import (
    DistqatError,
    ExpertNotFound,
    HopLost,
    PeerTimeout,
    RemoteProtocolError,
    StepAborted,
)
from distqatd.pipeline import messages as m
from distqatd.pipeline.drivers import Drivers
from distqatd.wire.payload import Message
from tests.support.inline_executor import InlineExecutor
from tests.support.loops import on_virtual_time
from tests.support.pipelines import Pipeline, batch

THREE = ("head", "body", "tail")


def slow():
    return InlineExecutor(0.01)


async def opened(pipeline, **arguments):
    runner = pipeline.runner(**arguments)
    await runner.open()
    pipeline.rpc.on_lost(runner.lost)
    return runner


async def warm(runner, num_steps=10):
    for number in range(num_steps):
        await runner.step(batch(number), number)
    return num_steps


def at_call(pipeline, method, callee, act):
    """Have `act` done once, as soon as `callee` has been called."""
    todo = [act]

    def look(_, to, called):
        if called == method and to == callee and todo:
            asyncio.get_running_loop().call_soon(todo.pop())

    pipeline.net.on_call = look


@on_virtual_time
@pytest.mark.parametrize("position", [0, 1, 2])
async def test_whoever_dies_in_a_step_the_trainer_learns_at_once_who_it_was(position):
    pipeline = Pipeline(*THREE, executor=slow)
    runner = await opened(pipeline)
    await warm(runner, 1)
    dead = pipeline.route[position]
    at_call(pipeline, m.FORWARD, "p2.0", lambda: pipeline.net.cut(dead.peer_id))
    began = asyncio.get_running_loop().time()
    with pytest.raises(DistqatError) as caught:
        await runner.step(batch(1), 1)
    ending = await runner.abort("it died", {getattr(caught.value, "uid", "")})
    assert asyncio.get_running_loop().time() - began < 0.2
    assert ending.lost == (dead.peer_id,)
    assert not any(
        hosted.expert.step_is_open for uid, hosted in pipeline.hosted.items() if uid != dead.uid
    )


@on_virtual_time
async def test_a_stage_that_cannot_reach_the_next_one_says_which_it_is():
    pipeline = Pipeline(*THREE)
    runner = pipeline.runner()  # hears nothing of links: only the answer tells it
    await runner.open()
    at_call(pipeline, m.FORWARD, "p1.0", lambda: pipeline.net.cut("p2.0"))
    with pytest.raises(HopLost, match=r"body\.0\.0\.0 cannot reach tail\.0\.0\.0") as caught:
        await runner.step(batch(0), 0)
    assert caught.value.uid == "tail.0.0.0"


@on_virtual_time
async def test_a_stage_that_hangs_is_given_up_in_seconds():
    pipeline = Pipeline(*THREE, executor=slow)
    runner = await opened(pipeline)
    number = await warm(runner)
    for method in (m.FORWARD, m.STANDING, m.COMMIT, m.ABORT):
        pipeline.net.delay(method, 3600.0, to="p2.0")
    began = asyncio.get_running_loop().time()
    with pytest.raises(HopLost, match=r"tail\.0\.0\.0 is lost") as caught:
        await runner.step(batch(number), number)
    ending = await runner.abort("it hangs", {caught.value.uid})
    assert asyncio.get_running_loop().time() - began < 4.0
    assert ending.lost == ("p2.0",)
    assert [hop.peer_id for hop in ending.unsettled] == ["p2.0"]
    assert pipeline.hosted["head.0.0.0"].expert.inner_step == number


@on_virtual_time
async def test_a_stage_that_is_slow_but_answers_is_waited_for():
    pipeline = Pipeline(*THREE, executor=slow)
    runner = await opened(pipeline)
    number = await warm(runner)
    pipeline.net.delay(m.FORWARD, 4.0, to="p2.0")
    result = await runner.step(batch(number), number)
    assert result.step == number + 1


@on_virtual_time
async def test_a_step_that_never_ends_although_all_answer_is_given_up():
    pipeline = Pipeline(*THREE, executor=slow)
    runner = await opened(pipeline)
    number = await warm(runner)
    pipeline.net.delay(m.FORWARD, 3600.0, to="p2.0")
    began = asyncio.get_running_loop().time()
    with pytest.raises(PeerTimeout, match="10 steps took"):
        await runner.step(batch(number), number)
    assert asyncio.get_running_loop().time() - began == pytest.approx(10.0, abs=0.5)
    assert (await runner.abort("it took too long")).lost == ()


@on_virtual_time
async def test_a_step_that_waits_for_a_round_is_not_given_up():
    pipeline = Pipeline("front", "back", executor=slow)
    runner = await opened(pipeline)
    number = await warm(runner)
    await runner.flush()
    async with asyncio.TaskGroup() as tasks, pipeline.hosted["back.0.0.0"].pause():
        step = tasks.create_task(runner.step(batch(number), number))
        await asyncio.sleep(12.0)
        assert not step.done()
    assert step.result().step == number + 1


@on_virtual_time
async def test_a_link_that_breaks_but_is_back_at_once_costs_no_step():
    pipeline = Pipeline(*THREE, executor=slow)
    runner = await opened(pipeline)
    at_call(pipeline, m.FORWARD, "p2.0", lambda: runner.lost("p2.0", "reset"))
    assert (await runner.step(batch(0), 0)).step == 1


def restarted(pipeline, position=1):
    hop = pipeline.route[position]
    return pipeline.restart(hop)


@on_virtual_time
async def test_a_route_of_an_earlier_life_is_refused():
    pipeline = Pipeline("front", "back")
    restarted(pipeline)
    with pytest.raises(ExpertNotFound, match="has restarted"):
        await pipeline.runner().open()


@on_virtual_time
async def test_a_route_with_another_peer_under_the_uid_is_refused():
    pipeline = Pipeline("front", "back")
    call = m.OpenCall("back.0.0.0", m.SessionId(1, 1), pipeline.route, 1, False)
    with pytest.raises(RemoteProtocolError):
        await pipeline.rpc.call("p0.0", m.OPEN, Message(call.body()), timeout_s=1)


@on_virtual_time
async def test_an_expert_that_restarts_between_steps_is_not_taken_for_the_old_one():
    pipeline = Pipeline("front", "back")
    runner = await opened(pipeline)
    await runner.step(batch(0), 0)
    hop = restarted(pipeline)
    with pytest.raises(StepAborted, match="not in session"):
        await runner.step(batch(1), 1)
    ending = await runner.abort("it restarted")
    assert (ending.lost, ending.replay) == ((), 0)
    runner = await opened(pipeline, route=(pipeline.route[0], hop), serial=2)
    for number in (0, 1):
        await runner.step(batch(number), number)
    await runner.flush()
    books = {uid: hosted.expert.book.local.to_list() for uid, hosted in pipeline.hosted.items()}
    assert books == {"front.0.0.0": [0, 2], "back.0.0.0": [0, 2]}
    assert pipeline.hosted["front.0.0.0"].expert.inner_step == 2


CALLS = {
    m.FORWARD: lambda runner: runner.step(batch(1), 1),
    m.COMMIT: lambda runner: runner.flush(),
    m.ROUND: lambda runner: runner.wait_round(),
    m.STANDING: lambda runner: runner.find(0, 4),
}


@on_virtual_time
@pytest.mark.parametrize("method", CALLS)
async def test_a_restarted_expert_refuses_every_message_of_an_old_session(method):
    pipeline = Pipeline("front", "back")
    runner = await opened(pipeline)
    await runner.step(batch(0), 0)
    restarted(pipeline)
    with pytest.raises(StepAborted):
        await CALLS[method](runner)
    expert = pipeline.hosted["back.0.0.0"].expert
    assert (expert.inner_step, expert.step_is_open) == (0, False)


@on_virtual_time
async def test_an_abort_of_an_old_session_does_nothing_to_a_restarted_expert():
    pipeline = Pipeline("front", "back")
    old = await opened(pipeline)
    hop = restarted(pipeline)
    new = await opened(pipeline, route=(pipeline.route[0], hop), serial=2)
    await old.abort("too late")
    assert (await new.step(batch(0), 0)).step == 1


@on_virtual_time
async def test_a_session_that_was_closed_is_never_opened_again():
    pipeline = Pipeline("front", "back")
    runner = await opened(pipeline)
    await runner.abort("the end")
    with pytest.raises(StepAborted):
        await pipeline.runner().open()
    with pytest.raises(StepAborted, match="newer"):
        await pipeline.runner(fence=0, serial=9).open()
    await pipeline.runner(fence=2).open()


@on_virtual_time
async def test_a_round_does_not_wait_for_a_trainer_that_is_gone():
    pipeline = Pipeline("front", "back", executor=slow)
    runner = await opened(pipeline)
    step = asyncio.ensure_future(runner.step(batch(0), 0))
    await asyncio.sleep(0.015)
    step.cancel()
    await asyncio.sleep(0)
    hosted = pipeline.hosted["front.0.0.0"]
    assert hosted.expert.step_is_open
    pipeline.net.cut("trainer")
    began = asyncio.get_running_loop().time()
    async with hosted.pause():
        assert not hosted.expert.step_is_open
    assert asyncio.get_running_loop().time() - began < 4.0


async def stranded(pipeline: Pipeline, runner):
    """Leave the front with a step whose forward and backward are done, and no COMMIT."""
    await runner.step(batch(0), 0)
    hosted = pipeline.hosted["front.0.0.0"]
    assert hosted.expert.step_is_open
    return hosted


@on_virtual_time
async def test_a_round_waits_for_the_step_of_a_trainer_that_drives_it():
    pipeline = Pipeline("front", "back")
    runner = await opened(pipeline)
    drivers = Drivers(pipeline.net.peer("trainer"))
    drivers.driven.add(runner.session)
    hosted = await stranded(pipeline, runner)
    loop = asyncio.get_running_loop()
    began = loop.time()
    loop.call_later(10.0, drivers.left, runner.session)
    async with hosted.pause():
        assert 10.0 <= loop.time() - began < 15.0
    assert hosted.session is None
    assert not hosted.expert.book.local


@on_virtual_time
async def test_an_expert_learns_from_its_trainer_what_was_decided_while_it_was_deaf():
    pipeline = Pipeline("front", "back")
    runner = await opened(pipeline)
    drivers = Drivers(pipeline.net.peer("trainer"))
    hosted = await stranded(pipeline, runner)
    decided = m.Decided(1, 8, 0)
    drivers.left(runner.session, [m.CommitCall(hosted.uid, runner.session, decided)])
    async with hosted.pause():
        assert hosted.expert.book.local.pairs == ((0, 1),)


@on_virtual_time
async def test_an_expert_learns_from_another_stage_what_its_lost_trainer_had_decided():
    pipeline = Pipeline("front", "back")
    runner = await opened(pipeline)
    hosted = await stranded(pipeline, runner)
    back = pipeline.hosted["back.0.0.0"]
    await back.commit(m.CommitCall(back.uid, runner.session, m.Decided(1, 8, 0)))
    pipeline.net.cut("trainer")
    async with hosted.pause():
        assert hosted.expert.book.local.pairs == ((0, 1),)


@on_virtual_time
async def test_an_open_whose_caller_left_does_not_leave_gradients_to_its_repetition():
    pipeline = Pipeline("full", executor=slow)
    old = await opened(pipeline)
    await asyncio.wait([asyncio.ensure_future(old.step(batch(0), 0))], timeout=0.005)
    hosted = pipeline.hosted["full.0.0.0"]
    call = m.OpenCall(hosted.uid, m.SessionId(2, 1), pipeline.route, 1, False)
    first = asyncio.ensure_future(hosted.open(call, "trainer"))
    await asyncio.sleep(0)
    first.cancel()  # before the device came to dropping the open step
    await asyncio.sleep(0.05)
    await hosted.open(call, "trainer")
    assert not hosted.expert.step_is_open
