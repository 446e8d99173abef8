"""The anchor is evaluated every so many outer steps, by any trainer that can, once each time."""

import asyncio

from tests.support.averaging_swarm import on_virtual_time as run
from tests.support.clients import ClientWorld


class World(ClientWorld):
    """One client of a run that is evaluated every two outer steps."""

    def __init__(self):
        super().__init__()
        diloco = self.config.diloco.model_copy(update={"evaluate_every": 2, "outer_steps": 9})
        self.config = self.config.model_copy(update={"diloco": diloco})

    async def reach(self, outer_step):
        self.experts(outer_step=outer_step)
        await self.look()
        await asyncio.sleep(0.1)
        await self.look()

    def evaluated(self):
        return [
            (event.fields["outer_step"], event.fields["loss"])
            for event in self.events()
            if event.kind == "anchor.evaluated"
        ]


def with_world(test):
    async def whole():
        world = World()
        async with world.tasks:
            world.client("me")
            await world.look()
            await test(world)

    run(whole())


def test_every_second_outer_step_is_evaluated_once_and_published():
    async def test(world):
        world.trainer("t")
        for outer_step in (0, 1, 2, 3, 3, 5, 6):
            await world.reach(outer_step)
        assert world.evaluated() == [(2, 0.5), (5, 0.5), (6, 0.5)]
        assert (world.lease().eval_outer_step, world.lease().eval_loss) == (6, 0.5)
        assert not world.lease().is_finished

    with_world(test)


def test_one_that_fails_costs_the_run_nothing():
    async def test(world):
        world.trainer("t")
        await world.reach(0)
        world.kill("t")
        await world.reach(2)
        assert world.evaluated() == []
        world.trainer("u")
        await world.reach(3)
        await world.reach(4)
        assert world.evaluated() == [(4, 0.5)]

    with_world(test)


def test_a_client_that_takes_over_does_not_evaluate_again():
    async def test(world):
        world.trainer("t")
        await world.reach(2)
        record = world.lease()
        evaluator = world.clients["me"].evaluator
        evaluator.begin(record)
        await world.reach(3)
        assert len(world.evaluated()) == 1
        assert evaluator.newest.outer_step == 2

    with_world(test)
