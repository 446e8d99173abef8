"""Orders of an owner and of an operator, and questions, in a swarm of whole simulated daemons."""

import asyncio
import functools

import pytest

from distqatd.api.control_schema import OrderRequest
from distqatd.base.errors import (
    ControlError,
    DistqatError,
    NotAllowed,
    NotFound,
    SwarmError,
    Unsafe,
)
from distqatd.base.ids import nickname
from distqatd.base.rng import seeded_rng
from distqatd.daemon.provider import NodeProvider
from distqatd.identity.keys import Identity
from distqatd.identity.operator import Operators
from tests.sim.scenarios.whole_swarm import Swarm, make_config, make_node, peer_of
from tests.sim.sim import run

OPERATOR = Identity.generate(seeded_rng("operator"))


async def ended(actions, request):
    """Begin an order and return the job as it ended."""
    job = await actions.order(request)
    for _ in range(600):
        if job.state != "running":
            return job
        await asyncio.sleep(0.2)
        job = await actions.job(job.number)
    raise AssertionError(f"{job.what} does not end: {job.progress}")


async def refusal(actions, request):
    with pytest.raises(DistqatError) as caught:
        await actions.order(request)
    return type(caught.value)


async def answers(sim):
    """Drain, resume and move the experts of a swarm whose run is over; return what was answered."""
    swarm, found = Swarm(sim, make_config()), {}
    early = make_node(sim.host(), ("expert",), swarm.config, None)
    with pytest.raises(SwarmError, match="not joined"):
        await NodeProvider(early, None).actions.jobs()
    first = swarm.add("monitor", "client", "trainer")
    await asyncio.sleep(0.5)
    swarm.nodes[first].operators = Operators(OPERATOR, OPERATOR.public_key)
    experts = [swarm.add("expert") for _ in range(4)]
    await sim.until(lambda: len(swarm.experts()) == 4, within_s=60, what="four experts serve")
    await sim.until(swarm.is_finished, within_s=60, what="the run is finished")
    await asyncio.sleep(12)
    boss = NodeProvider(swarm.nodes[first], None)
    nodes = [swarm.nodes[ip] for ip in experts]
    names = [nickname(peer_of(node)) for node in nodes]
    own, stage = NodeProvider(nodes[0], None), nodes[0].experts[0].slot.stage
    twin = next(n for n in nodes[1:] if n.experts[0].slot.stage == stage)
    found["nobody"] = await refusal(boss.actions, OrderRequest(kind="drain", peer="nobody"))
    found["no key"] = await refusal(own.actions, OrderRequest(kind="drain", peer=names[1]))
    found["both"] = await refusal(own.actions, OrderRequest(kind="reassign"))
    found["moves"] = await boss.actions.moves("")
    found["auto"] = await refusal(boss.actions, OrderRequest(kind="reassign", auto=True))
    forced = OrderRequest(kind="reassign", auto=True, force=True)
    found["forced auto"] = await refusal(boss.actions, forced)
    found["drained"] = await ended(boss.actions, OrderRequest(kind="drain", peer=names[0]))
    found["status"] = await own.status()
    await asyncio.sleep(12)
    last = OrderRequest(kind="drain", peer=nickname(peer_of(twin)))
    found["last"] = await refusal(boss.actions, last)
    found["resumed"] = await ended(own.actions, OrderRequest(kind="resume"))
    await sim.until(lambda: nodes[0].experts[0].state == "serving", within_s=60, what="it serves")
    await asyncio.sleep(12)
    uid = nodes[0].experts[0].slot.uid
    other = next(s.name for s in (await boss.status()).stages if s.name != stage)
    move = OrderRequest(kind="reassign", peer=uid, stage=other, deadline_s=30)
    found["moved"] = await ended(boss.actions, move)
    found["stage"] = (nodes[0].experts[0].slot.stage, other)
    found["why"] = await boss.actions.why(names[0])
    found["why first"] = await own.actions.why(nickname(peer_of(swarm.nodes[first])))
    found["ping"] = await boss.actions.ping(names[0], with_bandwidth=True)
    found["doctor"] = await boss.actions.doctor()
    found["jobs"] = await boss.actions.jobs()
    leaver = swarm.hosts[experts[1]]
    leaver.spawn(nodes[1].drain_and_stop("SIGTERM", 30.0), name="stop")
    began_s = sim.now_s
    await sim.until(lambda: nodes[1].is_leaving, within_s=1, what="it drains")
    found["leaving"] = (await NodeProvider(nodes[1], None).status()).peer.state
    await sim.until(nodes[1].stopping.is_set, within_s=60, what="it stops")
    found["left"] = (sim.now_s - began_s, [event.kind for event in nodes[1].events.since()])
    await swarm.stop()
    alone = make_node(sim.host(), ("expert", "client"), swarm.config, None)
    await alone.drain_and_stop("SIGTERM", 30.0)
    found["alone"] = alone.stopping.is_set()
    return found


@functools.cache
def found():
    return run(answers, 5).value


def test_a_remote_drain_is_done_and_told():
    job = found()["drained"]
    assert (job.state, job.exit_code) == ("done", 0), job.message
    assert found()["status"].peer.state == "drained"
    assert found()["status"].experts == ()


def test_what_must_not_be_done_is_refused():
    assert found()["nobody"] is NotFound
    assert found()["no key"] is NotAllowed
    assert found()["last"] is Unsafe
    assert found()["both"] is ControlError
    assert found()["auto"] is NotFound
    assert found()["forced auto"] is ControlError


def test_a_drained_expert_serves_again_and_moves_to_another_stage():
    assert found()["resumed"].state == "done"
    assert (found()["moved"].state, found()["moved"].message) == ("done", found()["moved"].message)
    assert found()["stage"][0] == found()["stage"][1]


def test_why_names_placement_route_round_and_move_of_another_peer():
    kinds = {reason.kind for reason in found()["why"].reasons}
    assert {"placement", "route", "round", "move", "drain"} <= kinds
    told = {(reason.kind, reason.subject): reason.text for reason in found()["why first"].reasons}
    assert told["route", "pipeline 0"].endswith(": it is the first one")


def test_a_balanced_swarm_has_nothing_to_move_and_says_why():
    assert found()["moves"].moves == ()
    assert found()["moves"].reason


def test_the_way_to_a_peer_is_measured():
    assert 0 < found()["ping"].rtt_s < 5
    assert found()["ping"].down_bytes_per_s > 0


def test_the_doctor_looks_at_everything_and_operations_are_remembered():
    names = {check.name for check in found()["doctor"].checks}
    assert {"python", "clock", "reachability", "disk", "operator"} <= names
    assert [job.kind for job in found()["jobs"].jobs] == ["drain", "reassign"]


def test_a_signal_drains_and_then_stops_but_not_where_nobody_could_take_over():
    assert found()["leaving"] == "draining"
    seconds, events = found()["left"]
    assert seconds < 30
    assert events.index("expert.drained") < events.index("daemon.stopping")
    assert found()["alone"]
