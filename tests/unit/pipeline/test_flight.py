"""Memory that runs out: fewer microbatches in flight, then a clear error."""

import asyncio

import pytest
import torch

from distqatd.base.errors import OutOfMemory
from distqatd.compute.executor import DeviceExecutor
from distqatd.pipeline.flight import MAX_ALONE, InFlight
from tests.support.loops import on_virtual_time
from tests.support.pipelines import Pipeline, batch, train_plain


async def hold(flight, seconds, log, name):
    async with flight.slot():
        log.append(name)
        await asyncio.sleep(seconds)


@on_virtual_time
async def test_slots_are_given_in_the_order_in_which_they_were_asked_for():
    flight, log = InFlight(2), []
    async with asyncio.TaskGroup() as tasks:
        for name in "abcde":
            tasks.create_task(hold(flight, 1.0, log, name))
        await asyncio.sleep(0.5)
        assert log == ["a", "b"]
        assert flight.used == 2
    assert log == [*"abcde"]
    assert flight.used == 0


@on_virtual_time
async def test_who_is_cancelled_while_it_waits_takes_no_slot():
    flight, log = InFlight(1), []
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(hold(flight, 1.0, log, "a"))
        gone = [tasks.create_task(hold(flight, 1.0, log, "b")) for _ in range(2)]
        last = tasks.create_task(hold(flight, 1.0, log, "c"))
        await asyncio.sleep(0.5)
        gone[0].cancel()
        await asyncio.sleep(0.5)  # the second one is given the slot, and is cancelled with it
        gone[1].cancel()
        await last
    assert log == ["a", "c"]
    assert flight.used == 0


@on_virtual_time
async def test_the_limit_halves_what_was_in_flight_and_holds_from_then_on():
    flight, log = InFlight(32), []
    async with asyncio.TaskGroup() as tasks:
        for name in "abcdef":
            tasks.create_task(hold(flight, 1.0, log, name))
        await asyncio.sleep(0.5)
        decision = flight.shrink()
        assert decision.value
        assert "6 microbatches in flight; now 3" in decision.reason
        for name in "ghij":
            tasks.create_task(hold(flight, 1.0, log, name))
        await asyncio.sleep(1.0)
        assert log == [*"abcdefghi"]


def test_a_microbatch_that_fails_alone_again_and_again_will_not_fit():
    flight = InFlight(8)
    assert [flight.shrink().value for _ in range(MAX_ALONE)] == [True] * (MAX_ALONE - 1) + [False]
    flight = InFlight(8)
    for _ in range(5):  # a step that goes well in between: somebody else had the memory
        assert flight.shrink().value
        flight.fits()


# --- real experts


def short_of_memory(hosted, most):
    """Let an expert have room for so many microbatches between forward and backward."""
    expert, waiting = hosted.expert, set()
    forward, backward, abort = expert.forward, expert.backward, expert.abort

    def limited(microbatch, inputs, seed):
        if len(waiting) >= most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        waiting.add(microbatch)
        return forward(microbatch, inputs, seed)

    def freed(microbatch, grads):
        waiting.discard(microbatch)
        return backward(microbatch, grads)

    def dropped():
        waiting.clear()
        return abort()

    expert.forward, expert.backward, expert.abort = limited, freed, dropped


def devices():
    return DeviceExecutor("cpu", 1)


async def steps(pipeline, numbers):
    """Run batches as a trainer does: one that fails is run again in another session."""
    losses, serial, num_failures = [], 1, 0
    runner = pipeline.runner()
    await runner.open()
    for number in numbers:
        while True:
            try:
                losses.append((await runner.step(batch(number), number)).loss)
                break
            except OutOfMemory as error:
                num_failures += 1
                await runner.abort(str(error))
                if num_failures > 20:
                    raise
                serial += 1
                runner = pipeline.runner(serial=serial)
                await runner.open()
    await runner.flush()
    return losses, num_failures


async def test_a_short_device_trains_on_with_fewer_microbatches_in_flight():
    pipeline = Pipeline("head", "body", "tail", num_microbatches=8, executor=devices)
    body = pipeline.hosted["body.0.0.0"]
    told = []
    body.on_short = told.append
    short_of_memory(body, most=1)
    losses, num_failures = await steps(pipeline, range(4))
    plain_losses, plain_state = train_plain(range(4), 8)
    assert losses == pytest.approx(plain_losses, abs=1e-6)
    for name, tensor in pipeline.state().items():
        assert torch.allclose(tensor, plain_state[name], atol=1e-6), name
    assert body.in_flight.limit == 1
    assert 1 <= num_failures == len(told) <= 3
    assert all(decision.value for decision in told)
    for other in ("head.0.0.0", "tail.0.0.0"):  # the error came past them, and was not theirs
        assert pipeline.hosted[other].in_flight.limit == 32


async def test_a_stage_that_does_not_fit_at_all_is_told_after_a_few_steps():
    pipeline = Pipeline("front", "back", num_microbatches=4, executor=devices)
    front = pipeline.hosted["front.0.0.0"]
    told = []
    front.on_short = told.append
    short_of_memory(front, most=0)
    with pytest.raises(OutOfMemory, match="the device has no room: CUDA out of memory"):
        await steps(pipeline, [0])
    assert [decision.value for decision in told][-1] is False
    first_end = [decision.value for decision in told].index(False)
    assert "one microbatch alone, 3 times in a row" in told[first_end].reason
