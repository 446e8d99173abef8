"""Several clients: the holder of the duty dies, comes back, or is cut off; training goes on."""

import asyncio

from tests.sim.registry import scenario
from tests.sim.scenarios.churn import WITHIN_S, hosts_of, until_trained
from tests.sim.scenarios.whole_swarm import Swarm, make_config
from tests.sim.sim import Sim
from tests.support.watched_swarm import Book, watched

TAKEOVER_S = 10.0


async def start(sim: Sim, num_clients: int = 2, outer_steps: int = 4) -> Swarm:
    """Start a monitor, clients, two pipelines of experts and two trainers."""
    swarm = Swarm(sim, make_config(outer_steps=outer_steps))
    swarm.add("monitor")
    await asyncio.sleep(sim.rng.uniform(0.2, 0.6))
    roles = [("client",)] * num_clients + [("expert",)] * 4 + [("trainer",)] * 2
    for names in sim.rng.sample(roles, len(roles)):
        swarm.add(*names)
        await asyncio.sleep(sim.rng.uniform(0.0, 0.2))
    return swarm


def clients(swarm: Swarm) -> dict[str, object]:
    """Return the client roles of the machines that live, by address."""
    return {
        ip: node.client
        for ip, node in swarm.nodes.items()
        if swarm.hosts[ip].alive and node.client is not None
    }


def holders(swarm: Swarm) -> list[str]:
    """Return the machines whose clients hold the duty."""
    return [ip for ip, client in clients(swarm).items() if client.duty.holds]


async def one_holder(swarm: Swarm, within_s: float = TAKEOVER_S, but: str = "") -> str:
    """Wait until exactly one client holds the duty, not `but`; return its machine."""
    await swarm.sim.until(
        lambda: len(holders(swarm)) == 1 and holders(swarm) != [but],
        within_s=within_s,
        what="one client holds the duty",
    )
    return holders(swarm)[0]


async def finish(swarm: Swarm, book: Book, most: int = 1) -> None:
    """Wait for the end of the run as its holder tells it, and check the counts."""
    sim = swarm.sim
    await sim.until(
        lambda: any(client.is_finished for client in clients(swarm).values()),
        within_s=WITHIN_S,
        what="the run is finished",
        every_s=0.5,
    )
    await sim.until(swarm.is_identical, within_s=30, what="replicas hold the same anchor")
    client = clients(swarm)[await one_holder(swarm)]
    sim.check(client.evaluator.newest.loss >= 0, "the run was not evaluated")
    ledger = client.ledger
    sim.check(ledger.lost() == 0, f"{ledger.lost()} batches lost")
    sim.check(ledger.duplicated == 0, f"{ledger.duplicated} batches duplicated")
    sim.check(book.most() <= most, f"a batch applied too often: {book.applied.most_common(3)}")
    sim.check(not book.wrong, f"wrong means: {book.wrong}")


@scenario("client-dies")
async def client_dies(sim: Sim) -> float:
    """The holder dies at any moment; another one takes over and no trainer starts anew."""
    with watched() as book:
        swarm = await start(sim, num_clients=sim.rng.choice((2, 3)))
        first = await one_holder(swarm, within_s=60)
        await until_trained(swarm, sim.rng.randrange(0, 12))
        first = await one_holder(swarm, within_s=60)
        began = sim.now_s
        is_told = sim.rng.random() < 0.7
        host = swarm.hosts[first]
        host.crash() if is_told else sim.lose_power(host)
        await one_holder(swarm, but=first)
        took_s = sim.now_s - began
        await finish(swarm, book)
        await swarm.stop()
    return round(took_s, 1)


@scenario("client-restarts")
async def client_restarts(sim: Sim) -> None:
    """The only client dies and comes back, on the same machine or on another one."""
    with watched() as book:
        swarm = await start(sim, num_clients=1)
        await until_trained(swarm, sim.rng.randrange(0, 12))
        ip = await one_holder(swarm, within_s=60)
        swarm.hosts[ip].crash()
        await asyncio.sleep(sim.rng.uniform(0.0, 40.0))
        swarm.hosts[ip].restart() if sim.rng.random() < 0.5 else swarm.add("client")
        await one_holder(swarm, within_s=30)
        await finish(swarm, book)
        await swarm.stop()


@scenario("clients-cut-off")
async def clients_cut_off(sim: Sim) -> None:
    """The network splits and heals: of two holders one steps down, and the run goes on to its end.

    Both sides train, each with what it has, so a batch may be applied on both.
    """
    with watched() as book:
        swarm = await start(sim, outer_steps=8)
        await one_holder(swarm, within_s=60)
        await until_trained(swarm, sim.rng.randrange(0, 12))
        machines = hosts_of(swarm, "client") + hosts_of(swarm, "expert")
        machines += hosts_of(swarm, "trainer")
        away = sim.rng.sample(machines, sim.rng.randrange(1, len(machines)))
        sim.partition([swarm.hosts[ip] for ip in away])
        await asyncio.sleep(sim.rng.uniform(5.0, 50.0))
        sim.heal()
        await one_holder(swarm, within_s=90)
        await sim.until(
            lambda: any(client.is_finished for client in clients(swarm).values()),
            within_s=WITHIN_S,
            what="the run is finished",
            every_s=0.5,
        )
        client = clients(swarm)[await one_holder(swarm, within_s=30)]
        sim.check(client.ledger.lost() == 0, f"{client.ledger.lost()} batches lost")
        sim.check(book.most() <= 2, f"a batch applied too often: {book.applied.most_common(3)}")
        await swarm.stop()


@scenario("monitor-restarts")
async def monitor_restarts(sim: Sim) -> None:
    """The only monitor dies and comes back: nobody waits for it, and it sees how the run ends."""
    with watched() as book:
        swarm = Swarm(sim, make_config(outer_steps=6))
        swarm.add("client")
        await asyncio.sleep(sim.rng.uniform(0.2, 0.6))
        monitor = swarm.add("monitor")
        for role in ("expert", "expert", "trainer"):
            swarm.add(role)
        await until_trained(swarm, sim.rng.randrange(0, 6))
        swarm.hosts[monitor].crash()
        await asyncio.sleep(sim.rng.uniform(0.0, 3.0))
        swarm.hosts[monitor].restart()
        await finish(swarm, book)
        await sim.until(
            lambda: any(x.is_finished for x in _seen_by(swarm, monitor)),
            within_s=30,
            what="the monitor sees that the run is over",
        )
        await swarm.stop()


def _seen_by(swarm: Swarm, ip: str) -> list[object]:
    """Return the lease records that a machine sees."""
    context = swarm.nodes[ip].context
    return [*context.directory.view.leases.values()] if context is not None else []
