import asyncio

import pytest

from distqatd.base.errors import ControlError, NotFound, Unsafe
from distqatd.base.rng import seeded_rng
from distqatd.base.tasks import Supervisor
from distqatd.daemon.jobs import MAX_JOBS, Jobs, Plan
from tests.support.contexts import FakeClock
from tests.support.loops import on_virtual_time

PLAN = Plan("drain", "drain alder-aaaa", "a" * 52, "b" * 52, 10.0)


async def forever():
    await asyncio.sleep(1e9)
    return ""


def start(jobs, work):
    return jobs.start(PLAN, work, lambda: "waits")


@on_virtual_time
async def test_an_operation_runs_by_itself_and_tells_how_it_ended():
    async def work():
        await asyncio.sleep(3)
        return "left"

    async with Supervisor("test", seeded_rng(1)) as tasks:
        jobs = Jobs(tasks, FakeClock())
        job = start(jobs, work)
        await asyncio.sleep(1)
        assert not jobs.get(job.number).is_over
        assert jobs.get(job.number).seconds == pytest.approx(1)
        assert job.progress() == "waits"
        await asyncio.sleep(3)
        assert (job.is_over, job.message, job.exit_code) == (True, "left", 0)
        assert job.seconds == pytest.approx(3)


@on_virtual_time
async def test_an_error_of_ours_is_how_it_ended_with_the_exit_code():
    async def work():
        raise Unsafe("the last replica")

    async with Supervisor("test", seeded_rng(1)) as tasks:
        job = start(Jobs(tasks, FakeClock()), work)
        await asyncio.sleep(0)
        assert (job.code, job.exit_code, job.message) == ("unsafe", 8, "the last replica")


@on_virtual_time
async def test_the_daemons_end_ends_it_and_says_so():
    async with Supervisor("test", seeded_rng(1)) as tasks:
        job = start(Jobs(tasks, FakeClock()), forever)
        await asyncio.sleep(0)
    assert job.is_over
    assert "stopped before it was done" in job.message


@on_virtual_time
async def test_operations_are_bounded_and_the_oldest_that_is_over_goes():
    async def work():
        return "done"

    async with Supervisor("test", seeded_rng(1)) as tasks:
        jobs = Jobs(tasks, FakeClock())
        first = start(jobs, work)
        await asyncio.sleep(0)
        others = [start(jobs, forever) for _ in range(MAX_JOBS)]
        await asyncio.sleep(0)
        with pytest.raises(NotFound, match="operation 1 is not known"):
            jobs.get(first.number)
        with pytest.raises(ControlError, match="operations run already"):
            start(jobs, work)
        assert [job.number for job in jobs.all()] == [job.number for job in others]
