import pytest
from hypothesis import given
from hypothesis import strategies as st

from distqatd.base.errors import RemoteProtocolError
from distqatd.swarm.routes import Hop, plan_routes, read_route, route_body
from tests.support.views import info, view_of

STAGES = ("head", "tail")


def hop(uid, peer, epoch=1):
    return Hop(uid, peer, epoch)


def swarm(*names):
    return view_of(STAGES, *(info(name, uid) for name, uid in names))


def test_experts_pair_up_by_index_into_pipelines():
    view = swarm(("a", "head.0.0.0"), ("b", "head.0.1.0"), ("c", "tail.0.0.0"), ("d", "tail.0.1.0"))
    routes = plan_routes(view, {}).value
    assert routes == {
        0: (hop("head.0.0.0", "a"), hop("tail.0.0.0", "c")),
        1: (hop("head.0.1.0", "b"), hop("tail.0.1.0", "d")),
    }


def test_a_pipeline_keeps_its_experts_when_others_join():
    route = (hop("head.0.1.0", "b"), hop("tail.0.0.0", "c"))
    view = swarm(("a", "head.0.0.0"), ("b", "head.0.1.0"), ("c", "tail.0.0.0"), ("d", "tail.0.1.0"))
    routes = plan_routes(view, {0: route}).value
    assert routes[0] == route
    assert routes[1] == (hop("head.0.0.0", "a"), hop("tail.0.1.0", "d"))


def test_a_spare_replaces_a_lost_expert():
    route = (hop("head.0.0.0", "a"), hop("tail.0.0.0", "c"))
    view = swarm(("a", "head.0.0.0"), ("d", "tail.0.1.0"))
    assert plan_routes(view, {0: route}).value == {
        0: (hop("head.0.0.0", "a"), hop("tail.0.1.0", "d"))
    }


def test_experts_beyond_the_most_pipelines_stand_by_and_mend_one():
    experts = [("a", "head.0.0.0"), ("b", "head.0.1.0"), ("c", "tail.0.0.0"), ("d", "tail.0.1.0")]
    routes = plan_routes(swarm(*experts), {}, max_pipelines=1).value
    assert routes == {0: (hop("head.0.0.0", "a"), hop("tail.0.0.0", "c"))}
    mended = plan_routes(swarm(*experts[1:]), routes, max_pipelines=1).value
    assert mended == {0: (hop("head.0.1.0", "b"), hop("tail.0.0.0", "c"))}


def test_a_restarted_peer_is_not_the_expert_it_was():
    route = (hop("head.0.0.0", "a"), hop("tail.0.0.0", "c"))
    view = view_of(STAGES, info("a", "head.0.0.0", epoch=2), info("c", "tail.0.0.0"))
    assert plan_routes(view, {0: route}).value[0][0] == hop("head.0.0.0", "a", 2)


def test_a_pipeline_that_cannot_be_completed_is_left_out_and_its_gap_is_named():
    route = (hop("head.0.0.0", "a"), hop("tail.0.0.0", "c"))
    decision = plan_routes(swarm(("a", "head.0.0.0")), {0: route})
    assert decision.value == {}
    assert decision.reason == "pipeline 0 waits for tail"


def test_two_broken_pipelines_make_one_whole_one():
    current = {
        0: (hop("head.0.0.0", "a"), hop("tail.0.0.0", "c")),
        1: (hop("head.0.1.0", "b"), hop("tail.0.1.0", "d")),
    }
    routes = plan_routes(swarm(("a", "head.0.0.0"), ("d", "tail.0.1.0")), current).value
    assert list(routes.values()) == [(hop("head.0.0.0", "a"), hop("tail.0.1.0", "d"))]


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
def test_no_expert_is_in_two_pipelines_and_none_is_wasted(heads, tails, lost_heads, lost_tails):
    names = [(f"h{i}", f"head.0.{i}.0") for i in range(heads)]
    names += [(f"t{i}", f"tail.0.{i}.0") for i in range(tails)]
    before = plan_routes(swarm(*names), {}).value
    gone = {f"h{i}" for i in range(lost_heads)} | {f"t{i}" for i in range(lost_tails)}
    left = [name for name in names if name[0] not in gone]
    routes = plan_routes(swarm(*left), before).value
    used = [h.uid for route in routes.values() for h in route]
    assert len(used) == len(set(used))
    assert len(routes) == min(max(0, heads - lost_heads), max(0, tails - lost_tails))


def test_a_route_survives_the_wire_and_nonsense_does_not():
    route = (hop("head.0.0.0", "a"), hop("tail.0.0.0", "c", 7))
    assert read_route(route_body(route)) == route
    for bad in ([["head.0.0.0", "a"]], [["head.0.0.0", "a", "1", []]], ["x"], [[]] * 65):
        with pytest.raises(RemoteProtocolError):
            read_route(bad)
