from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distqatd.base.errors import SwarmError
from distqatd.swarm.placement import NO_NEEDS, Joiner, Slot, is_still_gap, keeps_claim
from distqatd.swarm.placement import place as place_joiner
from distqatd.swarm.view import SwarmView, build_stage
from tests.support.views import info, view_of

STAGES = ("head", "tail")


def place(view, peer, *, max_index, wanted_stage=None, free=0, unfit=(), needs=NO_NEEDS):
    joiner = Joiner(peer, 1, free, wanted_stage, frozenset(unfit))
    return place_joiner(view, joiner, max_index=max_index, needs=needs)


def test_a_joiner_fills_the_stage_that_nobody_serves():
    view = view_of(STAGES, info("a", "head.0.0.0"))
    decision = place(view, "b", max_index=8)
    assert decision.value == Slot("tail", 0)
    assert "tail has no expert" in decision.reason


def test_a_claim_of_another_joiner_counts_as_taken():
    view = view_of(STAGES, info("a", "head.0.0.0", state="joining"))
    assert place(view, "b", max_index=8).value == Slot("tail", 0)


def test_without_a_gap_the_stage_with_the_fewest_replicas_is_taken():
    view = view_of(
        STAGES, info("a", "head.0.0.0"), info("b", "head.0.1.0"), info("c", "tail.0.0.0")
    )
    assert place(view, "d", max_index=8).value == Slot("tail", 1)


def test_of_equally_many_replicas_the_slowest_stage_is_taken():
    view = view_of(STAGES, info("a", "head.0.0.0", speed=50.0), info("b", "tail.0.0.0", speed=9.0))
    decision = place(view, "c", max_index=8)
    assert decision.value == Slot("tail", 1)
    assert "9 samples/s" in decision.reason


def test_a_stage_asked_for_is_taken_or_refused_by_name():
    view = view_of(STAGES)
    assert place(view, "a", max_index=8, wanted_stage="tail").value == Slot("tail", 0)
    with pytest.raises(SwarmError, match=r"no stage 'tial'.*head, tail"):
        place(view, "a", max_index=8, wanted_stage="tial")


def test_a_free_index_below_a_taken_one_is_used_again():
    view = view_of(
        STAGES, info("a", "head.0.1.0"), info("b", "tail.0.0.0"), info("c", "tail.0.1.0")
    )
    assert place(view, "d", max_index=8).value == Slot("head", 0)


def test_a_full_stage_is_an_error_that_names_the_limit():
    view = view_of(("full",), info("a", "full.0.0.0"))
    with pytest.raises(SwarmError, match="max_expert_index"):
        place(view, "b", max_index=1)


@given(st.sets(st.text("abcdefgh", min_size=1, max_size=3), min_size=1, max_size=8))
def test_joiners_with_one_view_never_choose_the_same_slot_and_fill_all_gaps(peers):
    joiners = [info(peer, "", state="joining") for peer in peers]
    view = SwarmView(tuple(build_stage(name, ()) for name in STAGES), tuple(joiners))
    slots = [place(view, peer, max_index=8).value for peer in peers]
    assert len(set(slots)) == len(peers)
    assert {slot.stage for slot in slots} == set(STAGES[: len(peers)])


def test_of_two_claims_the_lower_peer_id_stays():
    rivals = [info("a", "head.0.0.0", state="joining"), info("b", "head.0.0.0", state="joining")]
    assert keeps_claim(rivals, "a", "head.0.0.0").value
    decision = keeps_claim(rivals, "b", "head.0.0.0")
    assert not decision.value
    assert "claimed by a too" in decision.reason


def test_a_serving_expert_keeps_its_slot_against_any_claim():
    rivals = [info("z", "head.0.0.0")]
    assert not keeps_claim(rivals, "a", "head.0.0.0").value


def test_a_drained_replica_keeps_its_index_but_counts_for_nothing():
    view = view_of(STAGES, info("a", "head.0.0.0"), info("b", "tail.0.0.0", state="draining"))
    decision = place(view, "c", max_index=8)
    assert decision.value == Slot("tail", 1)
    assert "tail has no expert" in decision.reason


def test_what_a_peer_announced_before_it_restarted_is_void():
    view = view_of(STAGES, info("a", "head.0.0.0", epoch=0), info("b", "tail.0.0.0"))
    assert place(view, "a", max_index=8).value == Slot("head", 0)


def test_another_expert_of_the_same_daemon_keeps_its_slot():
    view = view_of(STAGES, info("a", "head.0.0.0", state="joining"), info("b", "tail.0.0.0"))
    assert place(view, "a", max_index=8).value == Slot("head", 1)


def needing(head, tail):
    used = {"b": head, "c": tail, "d": tail}
    uids = {"b": "head.0.0.0", "c": "tail.0.0.0", "d": "tail.0.1.0"}
    return view_of(STAGES, *(info(p, uids[p], memory_used=used[p] << 20) for p in "bcd"))


def test_a_stage_that_does_not_fit_into_memory_is_left_to_others():
    decision = place(needing(900, 100), "a", max_index=8, free=500 << 20)
    assert decision.value == Slot("tail", 2)
    assert "head would not fit into 500 MiB" in decision.reason
    assert place(needing(900, 100), "a", max_index=8).value == Slot("head", 1)  # unknown fits


def test_a_machine_too_small_for_any_stage_is_told_so():
    with pytest.raises(SwarmError, match=r"50 MiB are free.*100 MiB"):
        place(needing(900, 100), "a", max_index=8, free=50 << 20)


def test_a_stage_asked_for_is_taken_whatever_others_take_for_it():
    decision = place(needing(900, 100), "a", max_index=8, free=1, wanted_stage="head")
    assert decision.value == Slot("head", 1)


def test_replicas_that_were_not_measured_yet_count_as_the_others_of_their_stage():
    view = view_of(
        STAGES,
        info("a", "head.0.0.0", speed=10.0),
        info("b", "head.0.1.0", speed=0.0),
        info("c", "tail.0.0.0", speed=15.0),
        info("d", "tail.0.1.0", speed=0.0),
    )
    assert place(view, "e", max_index=8).value.stage == "head"


def test_a_gap_is_none_any_more_when_another_serves_it_or_a_lower_id_claims_it():
    def stage(**fields):
        return build_stage("head", [info("b", "head.0.0.0", **fields)])

    assert not is_still_gap(stage(), "a").value
    assert is_still_gap(stage(state="joining"), "a").value
    decision = is_still_gap(stage(state="joining"), "c")
    assert not decision.value
    assert decision.reason == "b claimed head.0.0.0 by now"
    assert is_still_gap(stage(state="draining"), "c").value


NEEDS = {"head": 4 << 30, "tail": 1 << 30}


def test_a_stage_that_would_not_fit_is_not_chosen_before_anybody_serves_it():
    decision = place(view_of(STAGES), "a", max_index=8, free=2 << 30, needs=NEEDS)
    assert decision.value == Slot("tail", 0)
    assert "head would not fit into 2048 MiB" in decision.reason


def test_a_joiner_that_others_say_does_not_fit_somewhere_takes_no_slot_there_from_us():
    view = replace(view_of(STAGES), joiners=(info("a", "", state="joining", unfit=0b01),))
    assert place(view, "b", max_index=8).value == Slot("head", 0)
    small = replace(view_of(STAGES), joiners=(info("a", "", state="joining"),))
    assert place(small, "b", max_index=8).value == Slot("tail", 0)


def test_what_is_needed_and_what_is_free_is_told_where_nothing_fits():
    with pytest.raises(SwarmError, match="512 MiB are free, the smallest stage needs 1024 MiB"):
        place(view_of(STAGES), "a", max_index=8, free=1 << 29, needs=NEEDS)


def test_a_stage_asked_for_that_cannot_fit_is_refused_with_both_numbers():
    with pytest.raises(SwarmError, match=r"head was asked for.*needs 4096 MiB.*2048 MiB are free"):
        place(view_of(STAGES), "a", max_index=8, free=2 << 30, needs=NEEDS, wanted_stage="head")
    fitting = place(
        view_of(STAGES), "a", max_index=8, free=5 << 30, needs=NEEDS, wanted_stage="head"
    )
    assert fitting.value == Slot("head", 0)
    assert place(view_of(STAGES), "a", max_index=8, needs=NEEDS, wanted_stage="head").value


def test_a_stage_that_ran_out_of_memory_here_is_not_tried_again():
    view = view_of(STAGES)
    assert place(view, "a", max_index=8, unfit=["head"]).value == Slot("tail", 0)
    with pytest.raises(SwarmError, match="head was tried, and does not fit"):
        place(view, "a", max_index=8, unfit=["head"], wanted_stage="head")
    with pytest.raises(SwarmError, match="head, tail did not when tried"):
        place(view, "a", max_index=8, unfit=STAGES)
