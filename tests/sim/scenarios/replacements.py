"""Experts die and fresh ones come at once: they fill the gap, though the dead one's record lives.

No stage has a spare, so whoever fills another stage than the one that misses an expert leaves a
pipeline broken until the dead one's record has expired.
"""

import asyncio

from tests.sim.registry import scenario
from tests.sim.scenarios.drains import Drains
from tests.sim.sim import Sim

NUM_KILLS = 5
SERVES_WITHIN_S = 20.0
"""Less than the 30 s that a record lives."""


@scenario("replacements")
async def replacements(sim: Sim) -> dict[str, int]:
    """An expert of two or three in a stage is killed and replaced, again and again."""
    drains = Drains(sim, 4)
    await drains.start()
    for _ in range(NUM_KILLS):
        await _replace_one(drains)
        await drains.wait_until_trained(sim.rng.randint(4, 30))
    committed = drains.swarm.client.ledger.committed
    await drains.swarm.stop()
    return {"committed": committed}


async def _replace_one(drains: Drains) -> None:
    """Kill an expert, start a fresh one, and see where that one serves."""
    sim, swarm = drains.sim, drains.swarm
    ip = sim.rng.choice(drains.ips)
    stage = drains.role(ip).slot.stage
    swarm.hosts[ip].crash()
    await asyncio.sleep(sim.rng.uniform(0.0, 0.5))
    fresh = swarm.add("expert")
    drains.ips[drains.ips.index(ip)] = fresh

    def serves() -> bool:
        node = swarm.nodes.get(fresh)
        return bool(node and node.experts and drains.role(fresh).hosted)

    await sim.until(serves, within_s=SERVES_WITHIN_S, what="the fresh expert serves")
    found = drains.role(fresh).slot.stage
    sim.check(found == stage, f"an expert of {stage} died; the fresh one serves {found}")
