import asyncio

import pytest
import torch

from distqatd.base.errors import DistqatError, NetworkError, StepAborted
from distqatd.pipeline.evaluating import evaluate
from distqatd.pipeline.messages import COMMIT, FORWARD, CommitCall, Decided
from tests.support.inline_executor import InlineExecutor
from tests.support.pipelines import Pipeline, batch, train_plain

SPLITS = [("full",), ("front", "back"), ("head", "body", "tail")]


async def run_steps(runner, numbers):
    losses = [(await runner.step(batch(number), number)).loss for number in numbers]
    await runner.flush()
    return losses


def assert_same(pipeline, numbers, losses, num_microbatches=1, route=None):
    plain_losses, plain_state = train_plain(numbers, num_microbatches)
    assert losses == pytest.approx(plain_losses, abs=1e-6)
    for name, tensor in pipeline.state(route).items():
        assert torch.allclose(tensor, plain_state[name], atol=1e-6), name


@pytest.mark.parametrize("num_microbatches", [1, 4])
@pytest.mark.parametrize("loss_at", ["last_stage", "trainer"])
@pytest.mark.parametrize("names", SPLITS)
async def test_a_pipeline_equals_the_unsplit_model(names, loss_at, num_microbatches):
    pipeline = Pipeline(*names, num_microbatches=num_microbatches, loss_at=loss_at)
    runner = pipeline.runner()
    await runner.open()
    losses = await run_steps(runner, range(10))
    assert_same(pipeline, range(10), losses, num_microbatches)


async def test_hidden_states_and_logits_never_reach_the_trainer():
    pipeline = Pipeline("head", "body", "tail")
    runner = pipeline.runner()
    await runner.open()
    await run_steps(runner, [0])
    sent = [(a, b) for a, b, method in pipeline.net.calls if method == FORWARD]
    assert sent == [("trainer", "p0.0"), ("p0.0", "p1.0"), ("p1.0", "p2.0")]


async def test_a_step_costs_one_call_a_link_and_its_commit_none():
    pipeline = Pipeline("head", "body", "tail")
    runner = pipeline.runner()
    await runner.open()
    pipeline.net.calls.clear()
    for number in range(4):
        await runner.step(batch(number), number)
    assert [method for _, _, method in pipeline.net.calls] == [FORWARD] * 12
    assert [hosted.expert.inner_step for hosted in pipeline.hosted.values()] == [3, 3, 3]
    assert {s.inner_step for s in runner.standings.values()} == {3}
    await runner.flush()
    assert [hosted.expert.inner_step for hosted in pipeline.hosted.values()] == [4, 4, 4]


async def test_an_aborted_step_leaves_no_trace_and_its_batch_is_replayed():
    pipeline = Pipeline("front", "back")
    runner = pipeline.runner()
    await runner.open()
    losses = await run_steps(runner, [0, 1])
    await runner.step(batch(99), 99)  # decided, but not committed: forget that it was
    runner._decided = None
    await runner.abort("the test says so")
    runner = pipeline.runner(serial=2)
    await runner.open()
    losses += await run_steps(runner, [2, 3])
    assert_same(pipeline, range(4), losses)


async def test_a_decided_step_is_committed_once_even_if_the_next_one_fails():
    pipeline = Pipeline("front", "back")
    runner = pipeline.runner()
    await runner.open()
    losses = [(await runner.step(batch(0), 0)).loss]
    bad = batch(1)
    bad.inputs[0][0, 0] = float("nan")
    with pytest.raises(DistqatError):
        await runner.step(bad, 1)
    assert (await runner.abort("the loss was not finite")).lost == ()
    runner = pipeline.runner(serial=2)
    await runner.open()
    losses += await run_steps(runner, [1])
    assert_same(pipeline, range(2), losses)


async def test_a_dead_expert_aborts_the_step_and_a_replica_takes_its_place():
    pipeline = Pipeline("front", "back")
    spare = pipeline.host(1, replica=1)
    runner = pipeline.runner()
    await runner.open()
    await runner.step(batch(0), 0)
    await runner.flush()
    pipeline.net.cut("p1.0")
    with pytest.raises(NetworkError):
        await runner.step(batch(1), 1)
    assert (await runner.abort("p1.0 died")).lost == ("p1.0",)
    runner = pipeline.runner((pipeline.route[0], spare), serial=2)
    await runner.open()
    await run_steps(runner, [1])
    assert pipeline.hosted["front.0.0.0"].expert.inner_step == 2
    assert pipeline.hosted["back.0.1.0"].expert.inner_step == 1


async def test_an_expert_that_dies_in_the_middle_of_a_step_fails_it_at_once():
    pipeline = Pipeline("head", "body", "tail")
    runner = pipeline.runner()
    await runner.open()

    def die(_, callee, method):
        if method == FORWARD and callee == "p2.0":
            asyncio.get_running_loop().call_soon(pipeline.net.cut, "p2.0")

    pipeline.net.on_call = die
    with pytest.raises(NetworkError):
        await runner.step(batch(0), 0)
    await runner.abort("p2.0 died")
    assert not pipeline.hosted["head.0.0.0"].expert.step_is_open


async def test_a_newer_session_takes_over_and_an_older_one_is_fenced_off():
    pipeline = Pipeline("front", "back")
    old, new = pipeline.runner(fence=1), pipeline.runner(fence=2)
    await old.open()
    await new.open()
    with pytest.raises(StepAborted):
        await old.step(batch(0), 0)
    with pytest.raises(StepAborted, match="newer"):
        await pipeline.runner(fence=1, serial=9).open()
    await run_steps(new, [0])
    assert pipeline.hosted["front.0.0.0"].expert.inner_step == 1


async def test_a_repeated_commit_is_applied_once():
    pipeline = Pipeline("front", "back")
    runner = pipeline.runner()
    await runner.open()
    await runner.step(batch(0), 0)
    decided = runner._decided
    await runner.flush()
    runner._decided = decided
    await runner.flush()
    assert [m for _, _, m in pipeline.net.calls].count(COMMIT) == 4
    assert pipeline.hosted["back.0.0.0"].expert.inner_step == 1


async def test_a_commit_whose_link_died_while_it_was_applied_is_applied_once():
    pipeline = Pipeline("full", executor=lambda: InlineExecutor(0.05))
    runner = pipeline.runner()
    await runner.open()
    await runner.step(batch(0), 0)
    hosted = pipeline.hosted["full.0.0.0"]
    call = CommitCall(hosted.uid, runner.session, Decided(1, 8, 0))
    first = asyncio.ensure_future(hosted.commit(call))
    await asyncio.sleep(0.02)  # the work has begun
    first.cancel()
    await asyncio.sleep(0)
    await hosted.commit(call)
    assert hosted.expert.inner_step == 1
    assert hosted.session.applied == 1


async def test_steps_wait_while_an_expert_is_in_a_round():
    pipeline = Pipeline("front", "back", inner_steps=2)
    runner = pipeline.runner()
    await runner.open()
    await run_steps(runner, [0])
    assert not runner.round_is_next
    await runner.step(batch(1), 1)
    assert runner.round_is_next
    await runner.flush()
    hosts = list(pipeline.hosted.values())
    assert all(hosted.round_due.is_set() for hosted in hosts)
    step = asyncio.ensure_future(runner.step(batch(2), 2))
    await asyncio.sleep(0)
    for hosted in hosts:
        assert not hosted.expert.step_is_open
        async with hosted.pause():
            pass
    await step
    assert all(hosted.steps_to_round == 2 for hosted in hosts)


async def test_the_anchor_is_evaluated_along_the_route_and_training_is_not_disturbed():
    pipeline = Pipeline("front", "back")
    runner = pipeline.runner()
    await runner.open()
    batches = [batch(1000), batch(1001)]
    before = await evaluate(pipeline.rpc, pipeline.route, batches, 5.0)
    losses = await run_steps(runner, range(3))
    after = await evaluate(pipeline.rpc, pipeline.route, batches, 5.0)
    assert after == before  # no outer step was taken: the anchor is what it was
    assert after["count"] == 16
    assert_same(pipeline, range(3), losses)


async def test_more_microbatches_than_may_be_in_flight_wait_and_change_nothing():
    pipeline = Pipeline("head", "body", "tail", num_microbatches=4, max_in_flight=1)
    runner = pipeline.runner()
    await runner.open()
    losses = await run_steps(runner, range(3))
    assert_same(pipeline, range(3), losses, 4)


async def test_a_commit_that_could_not_be_delivered_is_before_the_next_session_opens():
    pipeline = Pipeline("front", "back")
    runner = pipeline.runner()
    await runner.open()
    losses = [(await runner.step(batch(0), 0)).loss]
    pipeline.net.cut("p1.0")
    ending = await runner.abort("the link broke")
    assert ending.lost == ("p1.0",)
    unsettled = ending.unsettled
    assert [hop.peer_id for hop in unsettled] == ["p1.0"]
    runner = pipeline.runner(serial=2)
    with pytest.raises(NetworkError):
        await runner.settle(unsettled)
    pipeline.net.heal("p1.0")
    await runner.settle(unsettled)
    assert unsettled == {}
    await runner.open()
    losses += await run_steps(runner, [1])
    assert_same(pipeline, range(2), losses)


async def test_a_commit_that_comes_after_another_session_is_dropped():
    pipeline = Pipeline("front", "back")
    runner = pipeline.runner()
    await runner.open()
    await runner.step(batch(0), 0)
    pipeline.net.cut("p1.0")
    unsettled = (await runner.abort("the link broke")).unsettled
    pipeline.net.heal("p1.0")
    await pipeline.runner(fence=2).open()
    await pipeline.runner(fence=3).settle(unsettled)
    assert unsettled == {}
    assert [event.kind for event in pipeline.events.since()].count("step.settled_late") == 1
