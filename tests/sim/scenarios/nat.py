"""Machines that nobody can connect to train with the others."""

import asyncio

from tests.sim.registry import scenario
from tests.sim.scenarios.whole_swarm import Swarm, make_config
from tests.sim.sim import Sim


@scenario("behind-nat")
async def behind_nat(sim: Sim) -> dict[str, int]:
    """An expert behind NAT trains in a pipeline, is in every round, and owns no slice."""
    swarm = Swarm(sim, make_config(outer_steps=8, inner_steps=8))
    swarm.add("monitor", "client")
    await asyncio.sleep(sim.rng.uniform(0.2, 0.6))
    hidden = swarm.add("expert", behind_nat=True)
    for _ in range(3):
        await asyncio.sleep(sim.rng.uniform(0.0, 0.2))
        swarm.add("expert")
    for _ in range(2):
        swarm.add("trainer")
    await sim.until(swarm.is_finished, within_s=300, what="the run is finished", every_s=0.25)
    sim.check(swarm.is_identical(), "replicas hold different anchors")
    ledger = swarm.client.ledger
    sim.check(ledger.lost() == 0, f"{ledger.lost()} batches lost")
    node = swarm.nodes[hidden]
    sim.check(node.addresses() == (), f"it advertises {node.addresses()}")
    shared = [r for r in node.round_records() if r.outcome == "committed" and len(r.members) == 2]
    sim.check(shared, f"in no round with its replica: {node.round_records()}")
    sim.check(all(r.shares[r.uid] == 0.0 for r in shared), "it owns a slice")
    trained = [h.expert.inner_step for role in node.experts if (h := role.hosted)]
    sim.check(min(trained, default=0) > 0, "it has not trained")
    await swarm.stop()
    return {"rounds": len(shared), "committed": ledger.committed}
