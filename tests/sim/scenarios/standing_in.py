"""Experts die in both pipelines between two rounds, and spares stand in for them.

A spare has applied fewer steps than whom it stands in for, so the stages of its pipeline come to
their rounds at different steps. If the first pipeline is held by a round of one stage and the
second by a round of the other, each waits for the other.
"""

import asyncio

from tests.sim.registry import scenario
from tests.sim.scenarios.drains import Drains
from tests.sim.sim import Sim

NUM_TIMES = 2
LONGEST_S = 5.0
"""No pipeline stands still for longer: far less than the 30 s a round may wait for members."""


@scenario("spares-stand-in")
async def spares_stand_in(sim: Sim) -> dict[str, int]:
    """A front dies in one pipeline and a back in the other, again and again."""
    drains = Drains(sim, 6)
    await drains.start()
    for _ in range(NUM_TIMES):
        await _kill_one_of_each(drains)
    await drains.wait_until_trained(20)
    committed = drains.swarm.client.ledger.committed
    await drains.swarm.stop()
    return {"committed": committed}


async def _kill_one_of_each(drains: Drains) -> None:
    sim, swarm = drains.sim, drains.swarm
    await sim.until(lambda: len(_routes(drains)) == 2, within_s=30, what="two routes")
    first, second = _routes(drains)
    for peer in (first[0].peer_id, second[-1].peer_id):
        await asyncio.sleep(sim.rng.uniform(0.0, 1.0))
        ip = next(ip for ip, node in swarm.nodes.items() if node.identity.peer_id == peer)
        swarm.hosts[ip].crash()
        drains.ips[drains.ips.index(ip)] = swarm.add("expert")
    await _never_still(drains, sim.rng.uniform(9.0, 12.0))


def _routes(drains: Drains) -> list[tuple]:
    sessions = [hosted.session for hosted in drains.swarm.experts()]
    routes = {session.route for session in sessions if session is not None}
    return sorted(routes, key=lambda route: route[0].uid)


async def _never_still(drains: Drains, for_s: float) -> None:
    """Watch the swarm for a while: its batches are committed all the time."""
    loop, ledger = asyncio.get_running_loop(), drains.swarm.client.ledger
    until, committed, moved_at = loop.time() + for_s, ledger.committed, loop.time()
    while loop.time() < until:
        await asyncio.sleep(0.1)
        if ledger.committed != committed:
            committed, moved_at = ledger.committed, loop.time()
        still_s = loop.time() - moved_at
        drains.sim.check(still_s < LONGEST_S, f"no batch was committed for {still_s:.1f} s")
