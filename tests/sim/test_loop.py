import asyncio
import contextlib
import gc
import random
import time

import pytest

from tests.sim import loop as module
from tests.sim.loop import Deadlock, Livelock, TimeLimit
from tests.sim.sim import Sim, SimFailure, Violation, run
from tests.sim.trace import Trace


def _cause(failure: pytest.ExceptionInfo[SimFailure]) -> BaseException:
    cause = failure.value.__cause__
    assert cause is not None
    return cause


def test_a_day_passes_in_no_time() -> None:
    async def scenario(sim: Sim) -> None:
        for _ in range(24):
            await asyncio.sleep(3600)

    began_s = time.monotonic()
    assert run(scenario, 1).virtual_s == pytest.approx(86_400)
    assert time.monotonic() - began_s < 1


def test_timeouts_fire_on_virtual_time() -> None:
    async def scenario(sim: Sim) -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(7):
                await asyncio.Event().wait()
        return sim.now_s

    assert run(scenario, 1).value == 7


def test_a_deadlock_is_reported_with_the_tasks_and_the_lines_they_wait_at() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    async def scenario(sim: Sim) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(never(), name="the one that waits")

    with pytest.raises(
        SimFailure, match=r"the one that waits waits at .*test_loop\.py:\d+ \(never\)"
    ) as failure:
        run(scenario, 3)
    assert isinstance(_cause(failure), Deadlock)


def test_a_loop_that_spins_without_time_passing_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(sim: Sim) -> None:
        while True:  # noqa: ASYNC110  the bug to be found
            await asyncio.sleep(0)

    monkeypatch.setattr(module, "MAX_ROUNDS_AT_ONE_TIME", 1000)
    with pytest.raises(SimFailure, match="time stands still") as failure:
        run(scenario, 3)
    assert isinstance(_cause(failure), Livelock)


def test_a_scenario_that_never_ends_is_stopped_at_its_limit() -> None:
    async def scenario(sim: Sim) -> None:
        while True:  # noqa: ASYNC110  the bug to be found
            await asyncio.sleep(1)

    with pytest.raises(SimFailure) as failure:
        run(scenario, 3, limit_s=100)
    assert isinstance(_cause(failure), TimeLimit)


def test_an_exception_nobody_looks_at_fails_the_run() -> None:
    async def scenario(sim: Sim) -> None:
        sim.loop.call_later(1, lambda: 1 // 0)
        await asyncio.sleep(10)

    with pytest.raises(SimFailure, match=r"at 1\.000 virtual seconds.*ZeroDivisionError"):
        run(scenario, 3)


def test_a_task_that_swallows_its_cancellation_fails_the_run() -> None:
    async def stubborn() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)

    async def scenario(sim: Sim) -> None:
        sim.host().start(lambda host: stubborn())
        await asyncio.sleep(1)

    with pytest.raises(SimFailure, match="stubborn"):
        run(scenario, 3)


def test_threads_are_refused() -> None:
    async def scenario(sim: Sim) -> None:
        await asyncio.to_thread(time.sleep, 0)

    with pytest.raises(SimFailure, match="inline_executor"):
        run(scenario, 3)


def test_the_message_of_a_failure_has_the_seed_and_the_command_to_replay_it() -> None:
    async def scenario(sim: Sim) -> None:
        sim.check(False, "the sky is up")

    with pytest.raises(SimFailure) as failure:
        run(scenario, 417)
    assert isinstance(_cause(failure), Violation)
    assert "the sky is up" in str(failure.value)
    assert "replay: python -m tests.sim --scenario " in str(failure.value)
    assert "--seed 417 --trace" in str(failure.value)


def test_tasks_are_cancelled_in_the_order_they_began() -> None:
    """Plain asyncio goes through a set here, whose order depends on memory addresses."""

    async def scenario(sim: Sim) -> list[int]:
        order = []

        async def child(number: int) -> None:
            try:
                await asyncio.sleep(100)
            finally:
                order.append(number)

        async def parent() -> None:
            async with asyncio.TaskGroup() as tasks:
                for number in range(200):
                    tasks.create_task(child(number))

        task = sim.loop.create_task(parent())
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        return order

    orders = []
    clutter = []
    for _ in range(3):
        clutter.append([object() for _ in range(1000)])
        orders.append(run(scenario, 1).value)
    assert orders[0] == orders[1] == orders[2]


def test_the_global_generator_and_the_collector_are_fixed_and_given_back() -> None:
    async def scenario(sim: Sim) -> tuple[float, bool]:
        return random.random(), gc.isenabled()

    state = random.getstate()
    first, second, other = (run(scenario, seed).value for seed in (1, 1, 2))
    assert first == second != other
    assert first[1] is False
    assert random.getstate() == state
    assert gc.isenabled()


def test_what_a_scenario_notes_is_part_of_the_trace() -> None:
    async def scenario(sim: Sim) -> None:
        sim.note(f"seed {sim.seed % 2}")

    assert run(scenario, 1).trace == run(scenario, 3).trace != run(scenario, 2).trace
    trace = Trace(keep_lines=True)
    run(scenario, 1, trace=trace)
    assert trace.lines is not None
    assert "note seed 1" in trace.lines[0]


def test_until_says_what_did_not_happen_in_time() -> None:
    async def scenario(sim: Sim) -> None:
        await sim.until(lambda: sim.now_s > 3, within_s=4, what="three seconds")
        await sim.until(lambda: False, within_s=4, what="a miracle")

    with pytest.raises(SimFailure, match="not within 4 s: a miracle"):
        run(scenario, 1)
