"""A Supervisor owns its tasks, and the work they were given."""

import asyncio
import gc
import random
import warnings

from distqatd.averaging.waits import until
from distqatd.base.tasks import Supervisor


async def test_work_whose_task_is_cancelled_before_it_began_is_closed() -> None:
    began = []

    async def work() -> None:
        began.append("work")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with Supervisor("tests", random.Random(0)) as tasks:
            tasks.spawn(work(), name="once")
        gc.collect()
    assert not began
    assert not caught


async def test_work_that_is_given_up_before_it_began_is_closed() -> None:
    async def work() -> int:
        return 1

    stop = asyncio.get_running_loop().create_future()
    stop.set_result(None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert await until(work(), stop) in {None, 1}
        gc.collect()
    assert not caught
