from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from distqatd.swarm.rebalance import (
    HORIZON_S,
    MIN_GAIN,
    Limits,
    moved,
    plan_moves,
    predicted_speed,
    throughput,
)
from distqatd.swarm.view import SwarmView, build_stage
from tests.support.views import info, view_of

STAGES = ("head", "body", "tail")
TWO = ("head", "tail")


def replicas(stage, number, *, speed=10.0, **fields):
    return [info(f"{stage}{i}", f"{stage}.0.{i}.0", speed=speed, **fields) for i in range(number)]


def two(heads, tails, **fields):
    return view_of(TWO, *replicas("head", heads, **fields), *replicas("tail", tails, **fields))


def test_a_gap_takes_a_spare_of_the_stage_with_the_most_replicas():
    view = view_of(STAGES, *replicas("head", 2), *replicas("body", 4))
    decision = plan_moves(view, Limits(in_use=["body.0.3.0"]))
    move = decision.value[0]
    assert (move.from_stage, move.to_stage, move.is_for_gap) == ("body", "tail", True)
    assert move.uid == "body.0.2.0"
    assert "tail has no expert; body keeps 3 of 4; body.0.2.0 is a spare" in move.gain


def test_a_gap_that_others_do_not_confirm_moves_nobody():
    decision = plan_moves(two(3, 0), Limits(denied_gaps=("tail",)))
    assert decision.value == ()
    assert "others do not confirm" in decision.reason
    assert plan_moves(two(3, 0), Limits(denied_gaps=("head",))).value[0].to_stage == "tail"


def test_the_last_replica_fills_no_gap():
    view = view_of(STAGES, *replicas("head", 1), *replicas("body", 1))
    decision = plan_moves(view)
    assert decision.value == ()
    assert decision.reason == "tail has no expert and no other stage can spare one"


def test_nothing_moves_while_a_joiner_is_on_its_way():
    view = replace(two(3, 0), joiners=(info("new", "", state="joining"),))
    assert plan_moves(view).value == ()
    served = replace(two(3, 1), joiners=(info("tail0", "tail.0.0.0", state="joining"),))
    assert plan_moves(served).value  # this one serves by now, its claim is just not withdrawn


def test_a_drain_stops_moves_for_gain_but_not_into_a_gap():
    leaving = info("x", "head.0.9.0", state="draining")
    short = view_of(TWO, *replicas("head", 4), *replicas("tail", 1), leaving)
    assert plan_moves(short).value == ()
    assert "head.0.9.0 drains" in plan_moves(short).reason
    gap = view_of(TWO, *replicas("head", 4), leaving)
    assert plan_moves(gap).value


def test_a_spare_moves_where_it_completes_another_pipeline_with_numbers():
    decision = plan_moves(two(3, 1))
    [move] = decision.value
    assert (move.from_stage, move.to_stage) == ("head", "tail")
    assert "10 to 20 samples/s, 1 to 2 pipelines" in move.gain
    assert f"in {HORIZON_S:.0f} s" in move.gain


def test_a_spare_goes_before_an_expert_that_is_part_of_a_pipeline():
    [move] = plan_moves(two(3, 1), Limits(in_use=["head.0.2.0", "tail.0.0.0"])).value
    assert move.uid == "head.0.1.0"


def test_equally_many_replicas_stay_whatever_their_speed():
    view = view_of(TWO, *replicas("head", 2, speed=99.0), *replicas("tail", 2, speed=1.0))
    assert plan_moves(view).value == ()


def test_one_more_pipeline_may_take_several_moves_at_once():
    view = view_of(STAGES, *replicas("head", 4), *replicas("body", 1), *replicas("tail", 1))
    moves = plan_moves(view).value
    assert sorted(move.to_stage for move in moves) == ["body", "tail"]


def test_a_pipeline_more_than_the_run_forms_is_no_gain():
    decision = plan_moves(two(5, 1), Limits(max_pipelines=1))
    assert decision.value == ()
    assert "as many as there may be" in decision.reason


def test_a_gain_below_the_threshold_moves_nobody():
    view = view_of(TWO, *replicas("head", 12), *replicas("tail", 10))
    decision = plan_moves(view)  # one pipeline more is 10 %
    assert MIN_GAIN > 1 / 10
    assert decision.value == ()
    assert "too little to gain" in decision.reason


def test_a_move_that_takes_longer_than_it_pays_is_not_made():
    heavy = replicas("tail", 1, memory_used=10 << 30)
    view = view_of(TWO, *replicas("head", 3), *heavy)
    decision = plan_moves(view)
    assert decision.value == ()
    assert "costs more than it gains" in decision.reason


def test_a_stage_that_does_not_fit_is_filled_by_another_machine_or_not_at_all():
    big = replicas("tail", 1, memory_used=100 << 20)
    small = [info(f"s{i}", f"head.0.{i}.0", memory_free=20 << 20) for i in range(3)]
    assert "fits tail" in plan_moves(view_of(TWO, *small, *big)).reason
    large = info("l", "head.0.3.0", memory_free=90 << 20, memory_used=20 << 20, speed=99.0)
    [move, *_] = plan_moves(view_of(TWO, *small, large, *big)).value
    assert move.uid == "head.0.3.0"


def test_a_gap_is_filled_by_a_machine_that_says_it_has_the_room_or_by_none():
    big, small = info("big", "head.0.0.0"), info("small", "head.0.1.0", unfit=0b10)
    assert plan_moves(view_of(TWO, big, small)).value[0].uid == "head.0.0.0"
    none = view_of(TWO, small, info("other", "head.0.2.0", unfit=0b11))
    decision = plan_moves(none)
    assert decision.value == ()
    assert "no other stage can spare one whose machine has the memory" in decision.reason
    elsewhere = view_of(TWO, info("x", "head.0.0.0", unfit=0b01), small)
    assert plan_moves(elsewhere).value[0].uid == "head.0.0.0"  # what it has is not what it takes


def test_an_expert_whose_owner_chose_its_stage_stays():
    view = view_of(TWO, *replicas("head", 3, is_pinned=True), *replicas("tail", 1))
    assert plan_moves(view).value == ()


def test_without_any_measurement_nothing_moves_for_gain():
    assert plan_moves(two(3, 1, speed=0.0)).reason == "no expert was measured yet"


def test_the_speed_elsewhere_is_predicted_from_how_fast_the_stages_are():
    view = view_of(TWO, info("a", "head.0.0.0", speed=20.0), *replicas("tail", 3, speed=5.0))
    assert predicted_speed(view, view.expert("head.0.0.0"), "tail") == 5.0
    gap = view_of(TWO, info("a", "head.0.0.0", speed=20.0))
    assert predicted_speed(gap, gap.expert("head.0.0.0"), "tail") == 20.0


def test_throughput_pairs_the_fast_with_the_fast():
    view = view_of(
        TWO,
        info("a", "head.0.0.0", speed=1.0),
        info("b", "head.0.1.0", speed=9.0),
        info("c", "tail.0.0.0", speed=8.0),
        info("d", "tail.0.1.0", speed=2.0),
    )
    assert throughput(view) == 9.0
    assert throughput(view, 1) == 8.0


@st.composite
def swarms(draw):
    experts = []
    for stage in STAGES:
        for index in range(draw(st.integers(0, 5))):
            used = draw(st.sampled_from([0, 1 << 20, 300 << 20]))
            experts.append(
                info(
                    f"{stage}{index}",
                    f"{stage}.0.{index}.0",
                    speed=draw(st.sampled_from([0.0, 1.0, 10.0, 45.5])),
                    state=draw(st.sampled_from(["serving"] * 9 + ["draining"])),
                    is_pinned=draw(st.sampled_from([False] * 5 + [True])),
                    memory_used=used,
                    memory_free=draw(st.sampled_from([0, 1 << 20, 500 << 20])),
                )
            )
    in_use = draw(st.sets(st.sampled_from([e.uid for e in experts]))) if experts else set()
    return view_of(STAGES, *experts), Limits(in_use=in_use)


@settings(max_examples=300, deadline=None)
@given(swarms())
def test_a_plan_empties_no_stage_never_lowers_throughput_and_comes_to_rest(swarm):
    view, limits = swarm
    served = {stage.name for stage in view.stages if stage.serving}
    decision = plan_moves(view, limits)
    assert decision.reason
    after = view
    for move in decision.value:
        assert after.expert(move.uid).is_serving
        assert not after.expert(move.uid).record.is_pinned
        after = moved(after, move)
        assert served <= {stage.name for stage in after.stages if stage.serving}
    assert throughput(after) >= throughput(view)
    assert sum(len(s.experts) for s in after.stages) == sum(len(s.experts) for s in view.stages)
    assert plan_moves(after, limits).value == ()


@settings(max_examples=200, deadline=None)
@given(swarms())
def test_no_expert_goes_to_and_fro_in_a_plan(swarm):
    view, limits = swarm
    peers = [move.peer_id for move in plan_moves(view, limits).value]
    assert len(peers) == len(set(peers))


def test_an_empty_swarm_is_at_rest():
    assert plan_moves(SwarmView(tuple(build_stage(name, ()) for name in TWO))).value == ()
