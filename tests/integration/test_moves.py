"""Experts leave, come back and change stages under load, in real processes: no step notices.

One swarm serves all tests of this file, in their order: two pipelines over two stages with three
experts each, so that each stage has a spare.
"""

import pytest

from tests.support.real_swarm import ENDLESS, RealSwarm, Size

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(900)]

CONFIG = ("--config", "digits", "--set", "diloco.inner_steps=10", *ENDLESS)
SIZE = Size(experts=6, pipelines=2, trainers=2, clients=1)
NUM_DRAINS = 20
WITHIN_S = 60.0
"""Generous: two slow cores, and other tests on them."""


def assert_nothing_broke(swarm: RealSwarm, since_unix_s: float) -> None:
    broken = swarm.said("step.aborted", "route.failed", "expert.work_dropped", "trainer.lost")
    assert [each for each in broken if each.at_unix_s >= since_unix_s] == []
    account = swarm.account()
    assert (account.replayed, account.lost, account.duplicated) == (0, 0, 0)


def test_experts_leave_and_come_back_again_and_again(swarm):
    began = swarm.said("pipeline.opened")[-1].at_unix_s
    for number in range(NUM_DRAINS):
        name = swarm.user(hop=number % 2)
        drained = swarm.order(name, {"kind": "drain", "deadline_s": WITHIN_S})
        assert drained.state == "done", drained.message
        resumed = swarm.order(name, {"kind": "resume"})
        assert resumed.state == "done", resumed.message
        swarm.wait_until_whole()
    assert len(swarm.said("expert.drained", since_unix_s=began)) == NUM_DRAINS
    assert_nothing_broke(swarm, began)


def test_an_expert_in_use_changes_stages(swarm):
    began = swarm.said("pipeline.opened")[-1].at_unix_s
    name = swarm.user(hop=0)
    [home] = [expert.stage for expert in swarm.status(name).experts]
    moved = swarm.order(name, {"kind": "reassign", "stage": "back", "deadline_s": WITHIN_S})
    assert moved.state == "done", moved.message
    swarm.wait_until_whole()
    assert (home, [e.stage for e in swarm.status(name).experts]) == ("front", ["back"])
    before = swarm.steps()
    swarm.wait(lambda: swarm.steps() > before, WITHIN_S, "it trains on")
    assert_nothing_broke(swarm, began)
