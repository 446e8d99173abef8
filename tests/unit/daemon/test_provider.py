"""What the API answers about whole daemons, asked in a simulated swarm."""

import asyncio
import functools

import pytest

from distqatd.base.errors import SwarmError
from distqatd.daemon.provider import NodeProvider
from distqatd.identity.invite import Invite
from tests.sim.scenarios.whole_swarm import SECRET, Swarm, make_config, make_node
from tests.sim.sim import run


async def answers(sim):
    """Train a small swarm to its end; return what its daemons say before, during and after."""
    swarm, found = Swarm(sim, make_config()), {}
    early = make_node(sim.host(), ("client",), swarm.config, None)
    found["early"] = await NodeProvider(early, None).status()
    with pytest.raises(SwarmError, match="not joined a run yet"):
        await NodeProvider(early, None).run()
    assert (await NodeProvider(early, None).pipelines()).pipelines == ()
    first = swarm.add("monitor", "client", "trainer")
    await asyncio.sleep(0.5)
    expert = swarm.add("expert")
    swarm.add("expert")
    client = NodeProvider(swarm.nodes[first], SECRET)
    await asyncio.sleep(0.5)
    found["waiting"] = await client.run()
    await sim.until(lambda: swarm.client.ledger.next_batch > 0, within_s=60, what="the first lease")
    await asyncio.sleep(1.5)
    found["pipelines"] = await client.pipelines()
    await sim.until(swarm.is_finished, within_s=60, what="the run is finished")
    await asyncio.sleep(1.5)
    hosting = NodeProvider(swarm.nodes[expert], SECRET)
    found |= {
        "status": await client.status(),
        "run": await client.run(),
        "peers": await client.peers(),
        "expert": await hosting.status(),
        "rounds": await hosting.rounds(1),
        "all_rounds": await hosting.rounds(100),
        "invite": await client.invite(),
        "events": [event async for event in client.events(0, follow=False)],
        "stopping": await client.stop("a test"),
    }
    await swarm.stop()
    return found


@functools.cache
def found():
    return run(answers, 3).value


def test_a_daemon_that_has_not_joined_answers_without_a_run():
    status = found()["early"]
    assert status.run is None
    assert status.stages == ()
    assert status.peer.state == "starting"


def test_the_run_waits_until_a_pipeline_stands_and_then_has_finished():
    assert found()["waiting"].state == "waiting"
    assert found()["waiting"].eval is None
    over = found()["run"]
    assert (over.state, over.finished, over.outer_step) == ("finished", True, 2)
    assert (over.batches.committed, over.batches.lost, over.batches.duplicated) == (8, 0, 0)
    assert 0 <= over.eval.accuracy <= 1
    assert over.samples_per_s > 0


def test_a_pipeline_names_its_hops_and_their_peers():
    [pipeline] = found()["pipelines"].pipelines
    assert [hop.stage for hop in pipeline.hops] == ["front", "back"]
    assert all(hop.nickname != "lost" for hop in pipeline.hops)


def test_the_status_shows_every_stage_and_no_gap():
    status = found()["status"]
    assert [stage.name for stage in status.stages] == ["front", "back"]
    assert [stage.num_replicas for stage in status.stages] == [1, 1]
    assert status.gaps == ()
    assert status.training.state == "finished"


def test_an_expert_says_what_it_hosts_and_its_rounds():
    [hosted] = found()["expert"].experts
    assert (hosted.state, hosted.outer_step, hosted.inner_step) == ("serving", 2, 8)
    assert [r.outer_step for r in found()["all_rounds"].rounds] == [1, 2]
    [last] = found()["rounds"].rounds
    assert (last.outer_step, last.outcome) == (2, "committed")


def test_peers_are_the_others_with_their_links():
    peers = found()["peers"].peers
    assert len(peers) == 2
    assert all(peer.roles == ("expert",) and peer.bytes_in > 0 for peer in peers)


def test_an_invite_brings_the_secret_and_where_to_go():
    invite = Invite.parse(found()["invite"].text)
    assert (invite.secret, invite.swarm_name) == (SECRET, "sim")
    assert found()["invite"].command.startswith("distqatd --role expert --join dq1:")


def test_events_are_kept_and_numbered():
    numbers = [event.number for event in found()["events"]]
    assert numbers == sorted(numbers)
    assert "run.finished" in {event.kind for event in found()["events"]}
    assert found()["stopping"].reason == "a test"
