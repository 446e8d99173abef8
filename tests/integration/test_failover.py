"""Real daemons are killed under load: their pipelines go on, and no batch is lost.

One swarm serves all tests of this file, in their order: two pipelines over two stages, with five
experts, so that one stage has a spare and the other has none; two trainers, two clients, a monitor.
"""

import pytest

from tests.support.real_swarm import ENDLESS, Size

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(300)]

CONFIG = ("--config", "digits", "--set", "diloco.inner_steps=10", *ENDLESS)
SIZE = Size(experts=5, pipelines=2, trainers=2, clients=2)
WITHIN_S = 60.0
"""Generous: two slow cores, and other tests on them. How fast it is, the bench measures."""


def test_a_spare_takes_the_place_of_a_killed_expert(swarm):
    kill = swarm.kill("expert", 0, swarm.hop(with_spare=True), WITHIN_S)
    assert kill.verdict == "recovered", kill.reason
    assert kill.had_spare
    assert kill.recovery_s < 10  # far less than a fresh daemon needs


def test_another_trainer_takes_the_pipeline_of_a_killed_one(swarm):
    kill = swarm.kill("trainer", 0, 0, WITHIN_S)
    assert kill.verdict == "recovered", kill.reason
    assert "took pipeline 0 over" in kill.reason


def test_another_client_takes_the_duty_of_a_killed_one(swarm):
    before = swarm.steps()
    kill = swarm.kill("client", 0, 0, WITHIN_S)
    assert kill.verdict == "recovered", kill.reason
    assert swarm.steps() > before


def test_training_goes_on_without_a_monitor_and_a_new_one_joins(swarm):
    before = swarm.steps()
    kill = swarm.kill("monitor", 0, 0, WITHIN_S)
    assert kill.verdict == "recovered", kill.reason
    assert swarm.steps() > before


def test_a_fresh_daemon_fills_the_gap_where_nobody_stood_by(swarm):
    kill = swarm.kill("expert", 0, swarm.hop(with_spare=False), WITHIN_S)
    assert kill.verdict == "recovered", kill.reason
    assert not kill.had_spare
    assert kill.others_stall_s < 25  # the other pipeline does not wait out a round's grace


def test_no_batch_was_lost_or_trained_twice_by_all_of_that(swarm):
    account = swarm.account()
    assert account.committed > 0
    assert account.lost == 0
    assert account.duplicated == 0


def test_nothing_is_left_behind(swarm):
    assert swarm.stop() == ()
