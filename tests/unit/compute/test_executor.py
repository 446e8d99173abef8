"""The compute thread: order, errors, cancellation, end."""

import asyncio
import threading

import pytest
import torch

from distqatd.base.errors import ComputeError, OutOfMemory
from distqatd.compute.executor import DeviceExecutor


@pytest.fixture
def executor():
    made = DeviceExecutor("cpu", num_threads=1)
    yield made
    assert made.close()


class Gate:
    """Work that holds the thread until it is let go."""

    def __init__(self):
        self.entered, self.go = threading.Event(), threading.Event()

    def __call__(self):
        self.entered.set()
        assert self.go.wait(10)

    async def until_entered(self):
        await asyncio.sleep(0)  # lets the task hand its work over
        assert self.entered.wait(10)


async def test_work_runs_on_a_named_thread_and_returns_its_result(executor):
    assert await executor.run(lambda: threading.current_thread().name) == "distqat-compute-cpu"


async def test_all_work_runs_on_one_thread(executor):
    names = {await executor.run(threading.get_ident) for _ in range(5)}
    assert len(names) == 1
    assert names != {threading.get_ident()}


async def test_torch_uses_the_configured_number_of_threads_there(executor):
    assert await executor.run(torch.get_num_threads) == 1


async def test_lower_priorities_go_first_and_equal_ones_in_order(executor):
    gate, order = Gate(), []
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(executor.run(gate))
        await gate.until_entered()
        for name, priority in [("a5", 5), ("b0", 0), ("c5", 5), ("d-1", -1), ("e0", 0)]:
            tasks.create_task(executor.run(lambda name=name: order.append(name), priority=priority))
        await asyncio.sleep(0)
        assert executor.num_waiting == 5
        gate.go.set()
    assert order == ["d-1", "b0", "e0", "a5", "c5"]


async def test_an_error_reaches_the_caller_and_the_thread_goes_on(executor):
    def fail():
        raise ValueError("bad shape")

    with pytest.raises(ValueError, match="bad shape"):
        await executor.run(fail)
    assert await executor.run(lambda: 3) == 3


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"
        ),
    ],
)
async def test_a_full_device_is_one_typed_error(executor, error):
    def fail():
        raise error

    with pytest.raises(OutOfMemory):
        await executor.run(fail)


async def test_work_of_a_cancelled_caller_is_skipped_if_it_has_not_begun(executor):
    gate, ran = Gate(), []
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(executor.run(gate))
        await gate.until_entered()
        waiting = tasks.create_task(executor.run(lambda: ran.append("waiting")))
        await asyncio.sleep(0)
        waiting.cancel()
        tasks.create_task(executor.run(lambda: ran.append("after")))
        await asyncio.sleep(0)
        gate.go.set()
    assert ran == ["after"]


async def test_work_that_has_begun_is_finished_though_its_caller_is_cancelled(executor):
    gate, ran = Gate(), []

    def work():
        gate()
        ran.append("done")

    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(executor.run(work))
        await gate.until_entered()
        running.cancel()
    gate.go.set()
    await executor.run(lambda: None)
    assert ran == ["done"]


async def test_closing_refuses_what_waits_and_what_comes(executor):
    gate = Gate()
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(executor.run(gate))
        await gate.until_entered()
        second = tasks.create_task(failure_of(executor.run(lambda: None)))
        await asyncio.sleep(0)
        assert not executor.close(timeout_s=0.0)
        gate.go.set()
        await first
        assert isinstance(await second, ComputeError)
    assert executor.close()
    with pytest.raises(ComputeError, match="closed"):
        await executor.run(lambda: None)


async def failure_of(awaitable):
    try:
        await awaitable
    except ComputeError as error:
        return error


async def test_closing_before_any_work_starts_no_thread():
    before = threading.active_count()
    assert DeviceExecutor("cpu").close()
    assert threading.active_count() == before


def test_a_loop_that_ended_meanwhile_does_not_break_the_thread():
    executor, gate = DeviceExecutor("cpu"), Gate()

    async def leave_while_it_runs():
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(executor.run(gate))
            await gate.until_entered()
            running.cancel()

    asyncio.run(leave_while_it_runs())
    gate.go.set()
    assert asyncio.run(executor.run(lambda: 5)) == 5
    assert executor.close()
