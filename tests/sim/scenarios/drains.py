"""Experts drain, come back and change stages while a run goes on: no step notices."""

import asyncio

from tests.sim.registry import scenario
from tests.sim.scenarios.whole_swarm import Swarm, make_config
from tests.sim.sim import Sim

COST_S = 0.02
"""Virtual seconds of a piece of tensor work."""

NUM_DRAINS = 2
DEADLINE_S = 60.0


class Drains:
    """A swarm that trains two pipelines for longer than the scenario lasts."""

    def __init__(self, sim: Sim, num_experts: int) -> None:
        config = make_config(inner_steps=8, outer_steps=10_000)
        pipeline = config.model_pipeline.model_copy(update={"max_pipelines": 2})
        self.sim = sim
        self.swarm = Swarm(sim, config.model_copy(update={"model_pipeline": pipeline}))
        self.swarm.add("monitor", "client")
        self.ips = [self.swarm.add("expert") for _ in range(num_experts)]
        self.trainers = [self.swarm.add("trainer") for _ in range(2)]

    def role(self, ip: str) -> object:
        """Return the expert role of a machine."""
        return self.swarm.nodes[ip].experts[0]

    async def wait_until_trained(self, num_batches: int) -> None:
        """Wait for so many more batches."""
        ledger = self.swarm.client.ledger
        wanted = ledger.committed + num_batches
        await self.sim.until(
            lambda: self.swarm.client.ledger.committed >= wanted, within_s=120, what="training"
        )

    async def start(self) -> None:
        """Wait until everybody serves and both pipelines train."""
        nodes = self.swarm.nodes
        await self.sim.until(
            lambda: all(ip in nodes and nodes[ip].experts for ip in self.ips),
            within_s=30,
            what="up",
        )
        for host in self.swarm.hosts.values():
            host.executor.cost_s = COST_S
        await self.sim.until(
            lambda: all(self.role(ip).hosted for ip in self.ips), within_s=60, what="all serve"
        )
        await self.sim.until(
            lambda: len(self.swarm.client.pipelines) == 2, within_s=60, what="two pipelines"
        )
        await self.wait_until_trained(8)

    async def order(self, ip: str, work: object) -> object:
        """Carry out an order on a machine; return its outcome."""
        outcomes = []

        async def run() -> None:
            outcomes.append(await work)

        self.swarm.hosts[ip].spawn(run(), name="order")
        await self.sim.until(lambda: outcomes, within_s=120, what="the order is carried out")
        return outcomes[0]

    def check_nothing_was_lost(self) -> None:
        """Fail if a step was aborted, or a batch replayed, lost or trained twice."""
        told = [
            f"{event.kind} {dict(event.fields)}"
            for node in self.swarm.nodes.values()
            for event in node.events.since()
            if event.kind in ("step.aborted", "expert.work_dropped", "trainer.lost")
        ]
        self.sim.check(not told, f"{len(told)} of: {'; '.join(told[:3])}")
        ledger = self.swarm.client.ledger
        numbers = (ledger.replayed, ledger.lost(), ledger.duplicated)
        self.sim.check(numbers == (0, 0, 0), f"replayed, lost, duplicated: {numbers}")


async def _drain_and_return(drains: Drains, ip: str) -> None:
    sim, role = drains.sim, drains.role(ip)
    outcome = await drains.order(ip, role.drain(deadline_s=DEADLINE_S, reason="the scenario"))
    sim.check(outcome.is_done, f"not drained: {outcome}")
    sim.check(outcome.num_dropped == 0 and outcome.num_cut == 0, f"a drain lost work: {outcome}")
    await drains.wait_until_trained(sim.rng.randint(1, 20))
    await drains.order(ip, role.resume())
    await sim.until(lambda: role.hosted, within_s=60, what="it serves again")
    await drains.wait_until_trained(sim.rng.randint(1, 20))


@scenario("drains-with-spares")
async def drains_with_spares(sim: Sim) -> dict[str, int]:
    """Of three replicas a stage one drains and comes back, again and again."""
    drains = Drains(sim, 6)
    await drains.start()
    for _ in range(NUM_DRAINS):
        await _drain_and_return(drains, sim.rng.choice(drains.ips))
    drains.check_nothing_was_lost()
    committed = drains.swarm.client.ledger.committed
    await drains.swarm.stop()
    return {"committed": committed}


@scenario("drains-without-spares")
async def drains_without_spares(sim: Sim) -> dict[str, int]:
    """Of two replicas a stage, both in use, one drains: its pipeline ends in order."""
    drains = Drains(sim, 4)
    await drains.start()
    for _ in range(NUM_DRAINS):
        await _drain_and_return(drains, sim.rng.choice(drains.ips))
    drains.check_nothing_was_lost()
    committed = drains.swarm.client.ledger.committed
    await drains.swarm.stop()
    return {"committed": committed}


@scenario("reassigns")
async def reassigns(sim: Sim) -> dict[str, int]:
    """An expert of three in a stage serves the other stage, and goes back."""
    drains = Drains(sim, 6)
    await drains.start()
    ip = sim.rng.choice(drains.ips)
    home = drains.role(ip).slot.stage
    for stage in ("back" if home == "front" else "front", home):
        work = drains.role(ip).reassign(stage, deadline_s=DEADLINE_S, reason="the scenario")
        outcome = await drains.order(ip, work)
        sim.check(outcome.is_done, f"not moved: {outcome}")
        sim.check(outcome.num_dropped == outcome.num_cut == 0, f"a move lost work: {outcome}")
        await drains.wait_until_trained(10)
    drains.check_nothing_was_lost()
    committed = drains.swarm.client.ledger.committed
    await drains.swarm.stop()
    return {"committed": committed}


@scenario("trainers-leave")
async def trainers_leave(sim: Sim) -> dict[str, int]:
    """A trainer's daemon is told to end, as by SIGTERM: another trainer goes on where it was."""
    drains = Drains(sim, 4)
    await drains.start()
    ip = sim.rng.choice(drains.trainers)
    await asyncio.sleep(sim.rng.uniform(0.0, 1.0))
    node = drains.swarm.nodes[ip]
    await drains.order(ip, node.drain_and_stop("the scenario", DEADLINE_S))
    await sim.until(lambda: len(drains.swarm.client.pipelines) == 2, within_s=5, what="both run")
    await drains.wait_until_trained(20)
    trainers = {one.trainer for one in drains.swarm.client.pipelines.values()}
    sim.check(node.identity.peer_id not in trainers, "who left still has a pipeline")
    drains.check_nothing_was_lost()
    committed = drains.swarm.client.ledger.committed
    await drains.swarm.stop()
    return {"committed": committed}
