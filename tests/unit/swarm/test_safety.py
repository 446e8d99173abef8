from distqatd.swarm.safety import may_leave
from tests.support.views import info, view_of

STAGES = ("head", "tail")
TWO_HEADS = (info("a", "head.0.0.0"), info("b", "head.0.1.0"), info("c", "tail.0.0.0"))


def test_one_of_two_replicas_may_leave():
    assert may_leave(view_of(STAGES, *TWO_HEADS), "head.0.0.0").value


def test_the_last_replica_may_not_and_the_reason_names_its_stage():
    decision = may_leave(view_of(STAGES, *TWO_HEADS), "tail.0.0.0")
    assert not decision.value
    assert decision.reason == "tail.0.0.0 is the last serving replica of tail"


def test_a_replica_that_drains_already_does_not_stay():
    draining = info("b", "head.0.1.0", state="draining")
    view = view_of(STAGES, info("a", "head.0.0.0"), draining, info("c", "tail.0.0.0"))
    assert not may_leave(view, "head.0.0.0").value
    assert may_leave(view, "head.0.1.0").value


def test_a_peer_with_all_replicas_of_a_stage_may_not_leave():
    view = view_of(
        STAGES, info("a", "head.0.0.0"), info("a", "head.0.1.0"), info("c", "tail.0.0.0")
    )
    assert not may_leave(view, "a").value
    assert may_leave(view, "nobody").value
