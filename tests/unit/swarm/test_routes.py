import pytest
from hypothesis import given
from hypothesis import strategies as st

from distqatd.base.errors import RemoteProtocolError
from distqatd.swarm.routes import Hop, ending, plan_routes, read_route, remember, route_body
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


def test_a_pipeline_made_of_two_broken_ones_keeps_its_experts_when_the_lost_come_back():
    names = [("h0", "head.0.0.0"), ("h1", "head.0.1.0"), ("t0", "tail.0.0.0"), ("t1", "tail.0.1.0")]
    before = plan_routes(swarm(*names), {}).value
    left = [name for name in names if name[0] in ("h1", "t0")]
    mixed = plan_routes(swarm(*left), before).value
    [(number, route)] = mixed.items()
    mind = remember(before, mixed)
    assert mind == mixed
    again = plan_routes(swarm(*names), mind).value
    assert again[number] == route
    assert len(again) == 2


def test_a_broken_pipeline_is_remembered_until_its_experts_work_elsewhere():
    route = (hop("head.0.0.0", "a"), hop("tail.0.0.0", "c"))
    assert remember({0: route}, {}) == {0: route}
    assert remember({0: route}, {1: (hop("head.0.0.0", "a"), hop("tail.0.1.0", "d"))}).keys() == {1}


@given(st.lists(st.sets(st.integers(0, 7), max_size=6), max_size=6))
def test_whoever_comes_and_goes_a_whole_pipeline_is_never_taken_apart(absences):
    names = [(f"h{i}", f"head.0.{i}.0") for i in range(4)]
    names += [(f"t{i}", f"tail.0.{i}.0") for i in range(4)]
    mind, routes = {}, {}
    for absent in absences:
        view = swarm(*(name for i, name in enumerate(names) if i not in absent))
        gone = {names[i][0] for i in absent}
        whole = {n: r for n, r in routes.items() if not gone & {h.peer_id for h in r}}
        routes = plan_routes(view, mind).value
        mind = remember(mind, routes)
        assert {n: routes[n] for n in whole} == whole
        assert len(routes) == view.num_complete


def draining(view_names, leaver):
    experts = [
        info(p, uid, state="draining" if p == leaver else "serving") for p, uid in view_names
    ]
    return view_of(STAGES, *experts)


def test_a_spare_takes_the_place_of_an_expert_that_drains():
    names = (("a", "head.0.0.0"), ("b", "head.0.1.0"), ("c", "tail.0.0.0"))
    route = (hop("head.0.0.0", "a"), hop("tail.0.0.0", "c"))
    decision = plan_routes(draining(names, "a"), {0: route})
    assert decision.value == {0: (hop("head.0.1.0", "b"), hop("tail.0.0.0", "c"))}
    assert "head.0.0.0 drains" in decision.reason


def test_without_a_spare_the_pipeline_of_an_expert_that_drains_ends_before_it_is_gone():
    names = (
        ("a", "head.0.0.0"),
        ("b", "head.0.1.0"),
        ("c", "tail.0.0.0"),
        ("d", "tail.0.1.0"),
    )
    before = plan_routes(swarm(*names), {}).value
    decision = plan_routes(draining(names, "b"), before)
    assert decision.value == {0: before[0]}
    assert "pipeline 1 waits for head" in decision.reason


def test_the_last_expert_of_a_stage_stays_in_its_pipeline_while_it_drains():
    names = (("a", "head.0.0.0"), ("c", "tail.0.0.0"))
    route = (hop("head.0.0.0", "a"), hop("tail.0.0.0", "c"))
    assert plan_routes(draining(names, "a"), {0: route}).value == {0: route}
    assert plan_routes(draining(names, "a"), {}).value == {}  # but nothing new begins there


def test_the_fastest_spare_fills_a_hole():
    route = (hop("head.0.0.0", "a"), hop("tail.0.0.0", "c"))
    view = view_of(
        STAGES,
        info("b", "head.0.1.0", speed=5.0),
        info("d", "head.0.2.0", speed=50.0),
        info("c", "tail.0.0.0"),
    )
    assert plan_routes(view, {0: route}).value[0][0] == hop("head.0.2.0", "d")


@given(st.integers(1, 4), st.integers(1, 4), st.lists(st.integers(0, 7), max_size=6))
def test_no_route_holds_a_draining_expert_while_others_serve_its_stage(heads, tails, leavers):
    names = [(f"h{i}", f"head.0.{i}.0") for i in range(heads)]
    names += [(f"t{i}", f"tail.0.{i}.0") for i in range(tails)]
    before = plan_routes(swarm(*names), {}).value
    gone = {names[i % len(names)][0] for i in leavers}
    states = {peer: "draining" if peer in gone else "serving" for peer, _ in names}
    view = view_of(STAGES, *(info(peer, uid, state=states[peer]) for peer, uid in names))
    routes = plan_routes(view, before).value
    used = [h for route in routes.values() for h in route]
    assert len({h.uid for h in used}) == len(used)
    for h in used:
        stage = view.stage(h.uid.split(".")[0])
        assert h.peer_id not in gone or not stage.serving
    assert plan_routes(view, routes).value == routes  # and it stays like that


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


def test_a_pipeline_ends_in_order_when_an_expert_of_it_drains_and_nobody_can_take_its_place():
    names = (("a", "head.0.0.0"), ("b", "head.0.1.0"), ("c", "tail.0.0.0"), ("d", "tail.0.1.0"))
    before = plan_routes(swarm(*names), {}).value
    view = draining(names, "b")
    planned = plan_routes(view, before).value
    assert ending(view, before, planned) == {1: "head.0.1.0 drains and there is no spare"}
    dead = swarm(*names[:1], *names[2:])  # a gap ends nothing: we may be wrong about it
    assert ending(dead, before, plan_routes(dead, before).value) == {}
    assert ending(view, before, before) == {}
