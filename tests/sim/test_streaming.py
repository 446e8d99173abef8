"""Rounds of fragments beside inner steps: who waits, what dies, what a joiner gets."""

import pytest

from distqatd.config.sections import Config
from distqatd.pipeline.push import PRIORITY_BACKWARD
from tests.sim.scenarios.whole_swarm import Swarm, make_config
from tests.sim.sim import run

INNER, OUTER, OVERLAP = 20, 6, 10
LATER = 3


def config_of(**diloco):
    streaming = {"fragments": 2, "overlap_steps": OVERLAP, **diloco}
    values = make_config(
        inner_steps=INNER, outer_steps=OUTER, averaging_timeout=120.0, **streaming
    ).model_dump()
    values["model_pipeline"]["pipeline"] = [{"model_name": "mlp.full", "sizes": [64, 8, 10]}]
    return Config.model_validate(values)


class Fleet:
    """Two pipelines of one stage; their experts are 0.1 s apart, a round takes 0.7 s.

    It takes longer for one that is ready before the other, and while the device is busy.

    `step_s` is how long forward and backward take.
    """

    def __init__(self, sim, step_s, **diloco):
        self.sim, self.step_s = sim, step_s
        self.swarm = Swarm(sim, config_of(**diloco))
        self.swarm.add("monitor", "client")
        self.experts = [self.swarm.add("expert") for _ in range(2)]
        for _ in self.experts:
            self.swarm.add("trainer")

    async def up(self):
        swarm = self.swarm
        await self.sim.until(
            lambda: len(swarm.nodes) == len(swarm.hosts), within_s=10, what="all are up"
        )
        self.slow()

    def slow(self):
        self.sim.net.set_latency(*self.experts[:2], 0.1)
        for ip in self.experts:
            self.swarm.hosts[ip].executor.costs[PRIORITY_BACKWARD] = self.step_s

    async def finish(self):
        await self.sim.until(self.swarm.is_finished, within_s=3000, what="the run is finished")
        ledger = self.swarm.client.ledger
        assert (ledger.lost(), ledger.duplicated) == (0, 0)
        assert self.swarm.is_identical()

    def events(self, kind):
        logs = [node.events.since(0) for node in self.swarm.nodes.values()]
        return [event for log in logs for event in log if event.kind == kind]


def synced(step_s, **diloco):
    """Return for how long each later outer step held back steps, and how long it took."""
    found = {}

    async def scenario(sim):
        fleet = Fleet(sim, step_s, **diloco)
        await fleet.up()
        await fleet.finish()
        # In the first ones the pipelines have not begun together yet; the last one is waited for.
        told = [e.fields for e in fleet.events("expert.synced")]
        some = [each for each in told if LATER <= each["outer_step"] < OUTER]
        found["synced"] = [(each["held_s"], each["seconds"]) for each in some]
        late = [e for e in fleet.events("round.late") if e.fields["outer_step"] >= LATER]
        found["late"] = late
        found["status"] = max(hosted.syncs.seconds for hosted in fleet.swarm.experts())
        await fleet.swarm.stop()

    run(scenario, 0)
    return found


def test_steps_do_not_wait_for_a_round_that_is_shorter_than_the_overlap():
    found = synced(1.0)
    assert len(found["synced"]) == 2 * (OUTER - LATER)
    short = [held_s for held_s, seconds in found["synced"] if seconds < 0.95 * OVERLAP]
    assert len(short) >= OUTER - LATER
    assert all(held_s < 0.1 for held_s in short)
    assert len(found["late"]) <= len(found["synced"]) - len(short)


def test_steps_wait_and_say_so_for_a_round_that_is_longer_than_the_overlap():
    found = synced(0.02)
    long = [(held_s, s) for held_s, s in found["synced"] if s > OVERLAP * 0.02 + 0.3]
    assert len(long) >= OUTER - LATER
    assert all(0.1 < held_s < seconds for held_s, seconds in long)
    assert len(found["late"]) >= len(long)
    assert all(event.degraded for event in found["late"])
    assert found["status"] > 0.5


def test_without_overlap_steps_wait_for_the_whole_round():
    found = synced(1.0, overlap_steps=0)
    assert all(held_s >= seconds > 0.3 for held_s, seconds in found["synced"])


@pytest.mark.parametrize("seed", range(4))
def test_a_death_beside_a_round_and_a_joiner_in_the_middle_lose_nothing(seed):
    async def scenario(sim):
        fleet = Fleet(sim, 0.3)
        await fleet.up()
        await sim.until(
            lambda: (
                any(node.crew.round_waits() for node in fleet.swarm.nodes.values())
                and max(e.expert.outer_step for e in fleet.swarm.experts()) == 1
            ),
            within_s=300,
            what="a round is under way beside steps",
            every_s=0.1,
        )
        fleet.swarm.hosts[fleet.experts[seed % 2]].crash()
        fleet.experts.append(fleet.swarm.add("expert"))
        await sim.until(
            lambda: fleet.experts[-1] in fleet.swarm.nodes, within_s=60, what="it is up"
        )
        fleet.slow()
        await fleet.finish()
        last = fleet.swarm.experts()
        assert len(last) == 2
        assert {hosted.expert.outer_step for hosted in last} == {OUTER}
        await fleet.swarm.stop()

    run(scenario, seed)
