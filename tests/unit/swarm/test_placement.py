import pytest
from hypothesis import given
from hypothesis import strategies as st

from distqatd.base.errors import SwarmError
from distqatd.swarm.placement import Slot, keeps_claim, place
from distqatd.swarm.view import SwarmView, build_stage
from tests.support.views import info, view_of

STAGES = ("head", "tail")


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
