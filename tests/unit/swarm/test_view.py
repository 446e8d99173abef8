from distqatd.swarm.view import build_stage, expert_info
from tests.support.views import info, record, view_of


def test_gaps_are_stages_without_a_serving_expert():
    view = view_of(
        ("head", "tail"), info("a", "head.0.0.0"), info("b", "tail.0.0.0", state="joining")
    )
    assert view.gaps == ("tail",)
    assert view.num_complete == 0


def test_of_two_holders_of_a_uid_the_serving_one_counts():
    stage = build_stage("head", [info("a", "head.0.0.0", state="joining"), info("b", "head.0.0.0")])
    assert [expert.peer_id for expert in stage.experts] == ["b"]


def test_experts_of_lost_peers_are_left_out():
    view = view_of(("head",), info("a", "head.0.0.0"), info("b", "head.0.1.0"))
    assert [e.peer_id for e in view.without(["a"]).stage("head").serving] == ["b"]


def test_a_record_with_a_senseless_uid_or_state_is_nobody():
    assert expert_info("a", record("head")) is None
    assert expert_info("a", record("head.0.0.0", state="dancing")) is None


def test_throughput_of_a_stage_is_the_sum_of_its_serving_experts():
    view = view_of(
        ("head",),
        info("a", "head.0.0.0", speed=3.0),
        info("b", "head.0.1.0", speed=4.0),
        info("c", "head.0.2.0", speed=9.0, state="joining"),
    )
    assert view.stage("head").samples_per_s == 7.0
