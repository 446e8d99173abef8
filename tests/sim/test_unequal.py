"""Two of four machines are five times slower, and rounds take as long as if none were."""

import asyncio

import pytest

from distqatd.config.sections import Config
from distqatd.pipeline.push import PRIORITY_BACKWARD
from tests.sim.scenarios.whole_swarm import Swarm, make_config
from tests.sim.sim import run

FAST_S, SLOW_S = 1.0, 5.0
"""Virtual seconds that forward and backward of a step take."""

INNER, OUTER = 20, 6


def config_of(**diloco: object) -> Config:
    plain = make_config(
        **{"inner_steps": INNER, "outer_steps": OUTER, "averaging_timeout": 60.0, **diloco}
    )
    values = plain.model_dump()
    values["model_pipeline"]["pipeline"] = [{"model_name": "mlp.full", "sizes": [64, 8, 10]}]
    return Config.model_validate(values)


class Fleet:
    """Four pipelines of one stage, each with a machine of its own."""

    def __init__(self, sim, **diloco):
        self.swarm = Swarm(sim, config_of(**diloco))
        self.swarm.add("monitor", "client")
        self.machines = [self.swarm.add("expert") for _ in range(4)]
        for _ in self.machines:
            self.swarm.add("trainer")
        self.sim = sim

    async def up(self):
        everybody = len(self.swarm.hosts)
        await self.sim.until(
            lambda: len(self.swarm.nodes) == everybody, within_s=10, what="all are up"
        )
        self.speed(FAST_S, self.machines)

    def speed(self, step_s, machines):
        for ip in machines:
            self.swarm.hosts[ip].executor.costs[PRIORITY_BACKWARD] = step_s

    async def reach(self, outer_step, within_s=3000):
        """Wait until all experts have taken an outer step; return when."""

        def is_there():
            experts = self.swarm.experts()
            return len(experts) == 4 and all(e.expert.outer_step >= outer_step for e in experts)

        await self.sim.until(is_there, within_s=within_s, what=f"outer step {outer_step}")
        return asyncio.get_running_loop().time()

    def why(self):
        reasons = self.swarm.nodes[self.swarm.seed_ip].context.reasons.all()
        return {each.subject: each.text for each in reasons if each.kind == "pace"}


def seconds_a_round(num_slow, *, dylu):
    """Return how long a round takes in the second half of a run, steps and averaging."""
    found = {}

    async def scenario(sim):
        fleet = Fleet(sim, dylu=dylu)
        await fleet.up()
        fleet.speed(SLOW_S, fleet.machines[:num_slow])
        began = await fleet.reach(2)
        found["s"] = (await fleet.reach(OUTER - 2) - began) / (OUTER - 2 - 2)
        found["why"] = fleet.why()
        await fleet.swarm.stop()

    run(scenario, 0)
    return found


def test_two_of_four_at_a_fifth_of_the_speed_reach_every_round_together():
    ideal = seconds_a_round(0, dylu=True)
    planned = seconds_a_round(2, dylu=True)
    unplanned = seconds_a_round(2, dylu=False)
    assert planned["s"] <= 1.2 * ideal["s"]
    assert unplanned["s"] > 1.5 * ideal["s"]
    slow = [text for text in planned["why"].values() if "of 20 inner steps" in text]
    assert len(slow) == 2
    assert all("come to a round together" in text for text in slow)
    assert unplanned["why"] == {}


def test_a_machine_that_slows_down_is_planned_anew():
    async def scenario(sim):
        fleet = Fleet(sim, dylu=True)
        await fleet.up()
        await fleet.reach(1)
        before = fleet.why()
        assert all(text.startswith("20 ") for text in before.values())
        fleet.speed(SLOW_S, fleet.machines[:1])
        began = await fleet.reach(3)
        took = (await fleet.reach(OUTER - 1) - began) / (OUTER - 1 - 3)
        assert len(set(fleet.why().items()) - set(before.items())) >= 1
        paces = sorted(hosted.expert.pace for hosted in fleet.swarm.experts())
        assert paces[0] < 0.3
        assert paces[1:] == [1.0] * 3
        assert took < 1.3 * INNER * FAST_S
        await fleet.swarm.stop()

    run(scenario, 1)


@pytest.mark.parametrize("seed", [2])
def test_samples_of_slow_machines_count_and_none_is_lost(seed):
    async def scenario(sim):
        fleet = Fleet(sim, dylu=True)
        await fleet.up()
        fleet.speed(SLOW_S, fleet.machines[:2])
        await sim.until(fleet.swarm.is_finished, within_s=3000, what="the run is finished")
        ledger = fleet.swarm.client.ledger
        assert fleet.swarm.is_identical()
        assert (ledger.lost(), ledger.duplicated) == (0, 0)
        syncs = [hosted.syncs for hosted in fleet.swarm.experts()]
        assert all(each.num_committed >= OUTER - 2 and each.bytes_sent > 0 for each in syncs)
        records = [
            r
            for node in fleet.swarm.nodes.values()
            for r in node.round_records()
            if r.outcome == "committed" and r.outer_step == OUTER - 1
        ]
        shares = sorted(records[0].weights.values())
        assert shares[0] < 0.5 * shares[-1]
        await fleet.swarm.stop()

    run(scenario, seed)


def test_with_batches_chosen_by_speed_fast_machines_take_larger_ones_and_all_arrive_together():
    async def scenario(sim):
        fleet = Fleet(sim, batch_size_per_step="auto", inner_steps=4)
        await fleet.up()
        fleet.speed(SLOW_S, fleet.machines[:2])
        began = await fleet.reach(2)
        took = (await fleet.reach(OUTER - 2) - began) / (OUTER - 4)
        assert took < 1.2 * 4 * SLOW_S
        paces = sorted(hosted.expert.pace for hosted in fleet.swarm.experts())
        assert paces[:2] == [1.0, 1.0]
        assert 4.0 <= paces[2] <= paces[3] <= 5.0
        gathered = [text for text in fleet.why().values() if "in each update" in text]
        assert len(gathered) == 2
        await sim.until(fleet.swarm.is_finished, within_s=3000, what="the run is finished")
        ledger = fleet.swarm.client.ledger
        assert fleet.swarm.is_identical()
        assert (ledger.lost(), ledger.duplicated) == (0, 0)
        await fleet.swarm.stop()

    run(scenario, 3)
