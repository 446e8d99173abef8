import asyncio

import pytest

from distqatd.base.errors import ComputeError
from tests.sim.sim import Sim, run
from tests.support.inline_executor import InlineExecutor


def _run(scenario):
    return run(scenario, 0).value


def test_lower_priorities_go_first_and_equal_ones_in_order() -> None:
    async def scenario(sim: Sim) -> list[str]:
        executor, order = InlineExecutor(), []
        async with asyncio.TaskGroup() as tasks:
            for name, priority in (("b", 1), ("c", 1), ("a", 0)):
                tasks.create_task(
                    executor.run(lambda name=name: order.append(name), priority=priority)
                )
        return order

    assert _run(scenario) == ["a", "b", "c"]


def test_work_takes_its_cost_one_after_the_other() -> None:
    async def scenario(sim: Sim) -> float:
        executor = InlineExecutor(cost_s=0.5)
        async with asyncio.TaskGroup() as tasks:
            done = [tasks.create_task(executor.run(lambda: sim.now_s)) for _ in range(3)]
        return [task.result() for task in done]

    assert _run(scenario) == [0.5, 1.0, 1.5]


def test_an_error_reaches_the_caller_and_the_next_work_runs() -> None:
    async def scenario(sim: Sim) -> int:
        executor = InlineExecutor()
        with pytest.raises(ZeroDivisionError):
            await executor.run(lambda: 1 // 0)
        return await executor.run(lambda: 7)

    assert _run(scenario) == 7


def test_work_of_a_cancelled_caller_is_skipped_unless_it_has_begun() -> None:
    async def scenario(sim: Sim) -> list[str]:
        executor, ran = InlineExecutor(cost_s=1.0), []
        async with asyncio.TaskGroup() as tasks:
            begun = tasks.create_task(executor.run(lambda: ran.append("begun")))
            waiting = tasks.create_task(executor.run(lambda: ran.append("waiting")))
            await asyncio.sleep(0.5)
            begun.cancel()
            waiting.cancel()
        await executor.run(lambda: ran.append("next"))
        return ran

    assert _run(scenario) == ["begun", "next"]


def test_closing_refuses_what_waits_and_what_comes() -> None:
    async def scenario(sim: Sim) -> None:
        executor = InlineExecutor(cost_s=1.0)
        async with asyncio.TaskGroup() as tasks:
            begun = tasks.create_task(executor.run(lambda: "done"))
            waiting = tasks.create_task(_fails(executor))
            await asyncio.sleep(0.5)
            executor.close()
        assert begun.result() == "done"
        assert waiting.result()
        assert await _fails(executor)

    async def _fails(executor: InlineExecutor) -> bool:
        with pytest.raises(ComputeError):
            await executor.run(lambda: None)
        return True

    _run(scenario)
