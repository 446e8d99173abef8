"""Whom an open round waits for is visible while it lasts, to its leader and to its members."""

import asyncio

from tests.support.averaging_swarm import Swarm, gifts, on_virtual_time


def test_a_waiting_round_says_whom_it_waits_for() -> None:
    async def scenario() -> None:
        async with Swarm(2) as swarm:
            leader = swarm.order()[0]
            index = swarm.replicas.index(leader)
            waiting = []

            async def look() -> None:
                await asyncio.sleep(2.0)
                waiting.extend(leader.averager.waiting())

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(look())
                brought = [gifts(2)[i] if i == index else None for i in range(2)]
                tasks.create_task(swarm.round(brought))
            assert waiting[0].waiting_for == (swarm.replicas[1 - index].uid,)
            assert waiting[0].phase == "gathering"
            assert leader.averager.waiting() == ()

    on_virtual_time(scenario())


def test_a_member_says_whose_round_it_waits_in() -> None:
    async def scenario() -> None:
        async with Swarm(3) as swarm:
            leader, other, _ = swarm.order()
            waiting = []
            brought = [gifts(3)[i] if r is other else None for i, r in enumerate(swarm.replicas)]
            loop = asyncio.get_running_loop()
            loop.call_later(2.0, lambda: waiting.extend(other.averager.waiting()))
            await swarm.round(brought)
            [wait] = waiting
            assert (wait.phase, wait.waiting_for) == ("waiting for the plan", (leader.uid,))
            assert 9 < wait.seconds_left < 15
            assert other.averager.waiting() == ()

    on_virtual_time(scenario())
