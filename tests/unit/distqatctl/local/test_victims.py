import pytest

from distqatctl.local.timeline import Said
from distqatctl.local.victims import Member, choose, driven_pipelines, recovered_at
from distqatd.api.schema import Event

MEMBERS = [
    Member("monitor_0", "monitor", "m"),
    Member("client_0", "client", "c"),
    Member("client_1", "client", "d"),
    Member("expert_0", "expert", "a", ("front.0.0.0",)),
    Member("expert_1", "expert", "b", ("back.0.0.0",)),
    Member("expert_2", "expert", "e", ("back.0.1.0",)),
    Member("trainer_0", "trainer", "t"),
    Member("trainer_1", "trainer", "u"),
]


def said(daemon: str, at_unix_s: float, kind: str, **fields: str | int) -> Said:
    event = Event(number=1, time_unix_s=at_unix_s, kind=kind, fields=dict(fields), degraded=False)
    return Said(daemon, event)


def opened(daemon: str, at_unix_s: float, pipeline: int, route: str) -> Said:
    return said(daemon, at_unix_s, "pipeline.opened", pipeline=pipeline, route=route)


START = [
    said("client_1", 1.0, "pipeline.staffed", pipeline=0),
    opened("trainer_0", 2.0, 0, "front.0.0.0 back.0.0.0"),
]


def test_the_expert_of_a_pipeline_is_chosen_and_its_spare_is_known():
    victim = choose("expert", MEMBERS, START).value
    assert victim is not None
    assert (victim.daemon, victim.uid, victim.pipelines) == ("expert_1", "back.0.0.0", (0,))
    assert victim.has_spare


def test_an_expert_of_another_pipeline_is_no_spare():
    said_so_far = [*START, opened("trainer_1", 3.0, 1, "front.0.1.0 back.0.1.0")]
    decision = choose("expert", MEMBERS, said_so_far)
    assert decision.value is not None
    assert not decision.value.has_spare
    assert decision.reason == "spares of back: none"


def test_the_newest_route_of_a_pipeline_counts():
    said_so_far = [*START, opened("trainer_1", 3.0, 0, "front.0.0.0 back.0.1.0")]
    assert driven_pipelines(said_so_far)[0].trainer == "trainer_1"
    victim = choose("expert", MEMBERS, said_so_far).value
    assert victim is not None
    assert victim.daemon == "expert_2"


@pytest.mark.parametrize(
    ("role", "daemon", "pipelines"),
    [("trainer", "trainer_0", (0,)), ("client", "client_1", ()), ("monitor", "monitor_0", ())],
)
def test_whoever_does_the_work_is_chosen(role, daemon, pipelines):
    victim = choose(role, MEMBERS, START).value
    assert victim is not None
    assert (victim.daemon, victim.pipelines) == (daemon, pipelines)
    assert victim.has_spare == (role != "monitor")


def test_nobody_is_chosen_before_a_pipeline_runs():
    assert choose("expert", MEMBERS, []).value is None
    assert choose("expert", MEMBERS[:4], START).reason == "nobody serves back.0.0.0"


def test_a_pipeline_is_over_it_at_its_first_committed_step_after_the_kill():
    victim = choose("expert", MEMBERS, START).value
    assert victim is not None
    before = [*START, said("trainer_0", 9.0, "pipeline.running", pipeline=0, batch=3)]
    assert recovered_at(victim, before, 10.0).value is None
    other = said("trainer_1", 10.1, "pipeline.running", pipeline=1, batch=3)
    again = opened("trainer_0", 10.2, 0, "front.0.0.0 back.0.1.0")
    running = said("trainer_0", 10.5, "pipeline.running", pipeline=0, batch=4)
    decision = recovered_at(victim, [*before, other, again, running], 10.0)
    assert decision.value == 10.5
    assert decision.reason == "pipeline 0 goes on over front.0.0.0 back.0.1.0"


def test_the_trainer_is_replaced_by_another():
    victim = choose("trainer", MEMBERS, START).value
    assert victim is not None
    running = said("trainer_1", 11.0, "pipeline.running", pipeline=0, batch=4)
    assert recovered_at(victim, [*START, running], 10.0).reason == "trainer_1 took pipeline 0 over"


def test_the_duty_of_a_client_is_taken_by_another():
    victim = choose("client", MEMBERS, START).value
    assert victim is not None
    taken = said("client_0", 14.0, "duty.taken", term=2)
    assert recovered_at(victim, START, 10.0).value is None
    assert recovered_at(victim, [*START, taken], 10.0).value == 14.0


def test_a_new_monitor_has_joined():
    victim = choose("monitor", MEMBERS, START).value
    assert victim is not None
    joined = [said("expert_4", 11.0, "swarm.joined"), said("monitor_1", 12.0, "swarm.joined")]
    assert recovered_at(victim, joined, 10.0).value == 12.0
