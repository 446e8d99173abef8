"""Whole daemons that die, come back, or come late, while the others train on."""

import asyncio
import functools

import torch

from distqatd.data.batches import open_dataset
from distqatd.roles import baseline
from tests.sim.registry import scenario
from tests.sim.scenarios.whole_swarm import Swarm, make_config
from tests.sim.sim import Sim
from tests.support.watched_swarm import Book, watched

WITHIN_S = 900.0
"""Virtual seconds for a run; a silent peer costs a call's deadline now and then."""


async def start(sim: Sim, num_experts: int, num_trainers: int, **diloco: object) -> Swarm:
    """Start a swarm and wait until its first batch is committed."""
    swarm = Swarm(sim, make_config(**diloco))
    swarm.add("monitor", "client")
    await asyncio.sleep(sim.rng.uniform(0.2, 0.6))
    for _ in range(num_experts):
        swarm.add("expert")
        await asyncio.sleep(sim.rng.uniform(0.0, 0.2))
    for _ in range(num_trainers):
        swarm.add("trainer")
    return swarm


async def until_trained(swarm: Swarm, num_steps: int) -> None:
    """Wait until some expert has applied so many steps, and a moment more."""
    sim = swarm.sim
    await sim.until(
        lambda: max((h.expert.inner_step for h in swarm.experts()), default=0) >= num_steps,
        within_s=WITHIN_S,
        what=f"{num_steps} steps are applied",
    )
    await asyncio.sleep(sim.rng.uniform(0.0, 1.0))


async def finish(
    swarm: Swarm, book: Book, outer_steps: int, num_experts: int, most: int = 1
) -> None:
    """Wait for the end of the run and check what must hold however it went.

    `most` is how often a stage may have applied one batch.
    """
    sim = swarm.sim
    await sim.until(swarm.is_finished, within_s=WITHIN_S, what="the run is finished", every_s=0.5)
    await sim.until(
        lambda: len(swarm.experts()) == num_experts,
        within_s=60,
        what=f"{num_experts} experts serve",
    )
    # Replicas that took one step apart find out by their records, and the fewer give way.
    await sim.until(
        lambda: min(h.expert.outer_step for h in swarm.experts()) >= outer_steps,
        within_s=30,
        what=f"every expert has taken outer step {outer_steps}",
    )
    await sim.until(swarm.is_identical, within_s=30, what="replicas hold the same anchor")
    ledger = swarm.client.ledger
    sim.check(ledger.lost() == 0, f"{ledger.lost()} batches lost")
    sim.check(ledger.duplicated == 0, f"{ledger.duplicated} batches duplicated")
    sim.check(book.most() <= most, f"a batch applied too often: {book.applied.most_common(3)}")
    sim.check(not book.wrong, f"wrong means: {book.wrong}")


async def lose(swarm: Swarm, ip: str) -> None:
    """Kill a machine, with resets that tell the others or with silence."""
    host = swarm.hosts[ip]
    if swarm.sim.rng.random() < 0.7:
        host.crash()
    else:
        swarm.sim.lose_power(host)


def hosts_of(swarm: Swarm, role: str) -> list[str]:
    """Return the machines that live and have a role."""
    return [
        ip
        for ip, node in swarm.nodes.items()
        if role in node.options.roles and swarm.hosts[ip].alive
    ]


def is_serving(swarm: Swarm, ip: str) -> bool:
    """Return whether a machine runs a daemon whose expert serves."""
    return ip in swarm.nodes and any(role.hosted for role in swarm.nodes[ip].experts)


@scenario("expert-dies")
async def expert_dies(sim: Sim) -> None:
    """One of two replicas of a stage dies at any moment; the others go on to the last step."""
    with watched() as book:
        swarm = await start(sim, num_experts=4, num_trainers=2)
        await until_trained(swarm, sim.rng.randrange(0, 8))
        await lose(swarm, sim.rng.choice(hosts_of(swarm, "expert")))
        await finish(swarm, book, outer_steps=2, num_experts=3)
        await swarm.stop()


@scenario("gap-filled")
async def gap_filled(sim: Sim) -> None:
    """The only expert of a stage dies; training waits for another one, and then goes on."""
    with watched() as book:
        swarm = await start(sim, num_experts=2, num_trainers=1, outer_steps=3)
        await until_trained(swarm, sim.rng.randrange(0, 6))
        await lose(swarm, sim.rng.choice(hosts_of(swarm, "expert")))
        await sim.until(lambda: swarm.client._gaps, within_s=60, what="the gap is seen")
        await asyncio.sleep(sim.rng.uniform(0.0, 5.0))
        swarm.add("expert")
        await finish(swarm, book, outer_steps=3, num_experts=2)
        await swarm.stop()


@scenario("late-joiner")
async def late_joiner(sim: Sim) -> None:
    """An expert that comes after an outer step starts from its anchor, and ends as the others."""
    with watched() as book:
        swarm = await start(sim, num_experts=2, num_trainers=1, outer_steps=3)
        await sim.until(
            lambda: min([h.expert.outer_step for h in swarm.experts()], default=0) >= 1,
            within_s=WITHIN_S,
            what="the first outer step",
        )
        await asyncio.sleep(sim.rng.uniform(0.0, 1.0))
        joiner = swarm.add("expert")
        await sim.until(lambda: is_serving(swarm, joiner), within_s=60, what="the joiner serves")
        loaded = [e for e in swarm.nodes[joiner].events.since() if e.kind == "expert.state_loaded"]
        sim.check(loaded and loaded[0].fields["outer_step"] >= 1, "it took no state from a donor")
        await finish(swarm, book, outer_steps=3, num_experts=3)
        await swarm.stop()


@scenario("trainer-dies")
async def trainer_dies(sim: Sim) -> None:
    """A trainer dies; another one, or one in the client's daemon, takes its pipeline over."""
    with watched() as book:
        num_trainers = sim.rng.choice([1, 2])
        swarm = await start(sim, num_experts=4, num_trainers=num_trainers)
        await until_trained(swarm, sim.rng.randrange(0, 8))
        await lose(swarm, sim.rng.choice(hosts_of(swarm, "trainer")))
        # What a dead trainer committed after its last report is trained once more, never thrice.
        await finish(swarm, book, outer_steps=2, num_experts=4, most=2)
        await swarm.stop()


@scenario("expert-restarts")
async def expert_restarts(sim: Sim) -> None:
    """An expert's machine boots again with the same key; it catches up and ends as the others."""
    with watched() as book:
        swarm = await start(sim, num_experts=4, num_trainers=2)
        await until_trained(swarm, sim.rng.randrange(0, 8))
        ip = sim.rng.choice(hosts_of(swarm, "expert"))
        is_silent = sim.rng.random() < 0.3
        sim.lose_power(swarm.hosts[ip]) if is_silent else swarm.hosts[ip].crash()
        await asyncio.sleep(sim.rng.uniform(0.0, 5.0))
        sim.heal([swarm.hosts[ip]])
        del swarm.nodes[ip]
        swarm.hosts[ip].restart()
        await sim.until(lambda: is_serving(swarm, ip), within_s=120, what="it serves")
        await finish(swarm, book, outer_steps=2, num_experts=4)
        await swarm.stop()


@scenario("three-replicas")
async def three_replicas(sim: Sim) -> None:
    """Outer steps of three members are the mean of what these brought, bit for bit."""
    with watched() as book:
        swarm = await start(sim, num_experts=6, num_trainers=3)
        await finish(swarm, book, outer_steps=2, num_experts=6)
        sim.check(book.num_rounds >= 6, f"{book.num_rounds} outer steps were checked")
        await swarm.stop()


@functools.cache
def unsplit() -> dict[str, torch.Tensor]:
    """Return what plain torch makes of the whole run."""
    config = make_config()
    whole = baseline.whole_model(config, torch.device("cpu"))
    data = open_dataset(config.data, config.seed, config.diloco.batch_size_per_step)
    for _ in baseline.train(config, whole, data):
        pass
    return whole.global_state_dict()


@scenario("replays-exactly")
async def replays_exactly(sim: Sim) -> None:
    """Links break and heal while one pipeline trains: its bits are those of plain torch."""
    with watched() as book:
        swarm = await start(sim, num_experts=2, num_trainers=1)
        await until_trained(swarm, sim.rng.randrange(0, 7))
        one, other = sim.rng.sample([*hosts_of(swarm, "expert"), *hosts_of(swarm, "trainer")], 2)
        for _ in range(sim.rng.randrange(1, 4)):
            if sim.rng.random() < 0.5:
                sim.reset_links(swarm.hosts[one], swarm.hosts[other])
            else:
                sim.partition([swarm.hosts[one]], [swarm.hosts[other]])
                await asyncio.sleep(sim.rng.uniform(1.0, 40.0))
                sim.heal()
            await asyncio.sleep(sim.rng.uniform(0.0, 1.0))
        await finish(swarm, book, outer_steps=2, num_experts=2)
        for hosted in swarm.experts():
            if hosted.expert.outer_step > 2:
                continue
            hosted.expert.load(hosted.expert.snapshot())  # drop what was trained since
            for name, tensor in hosted.expert.stage.global_state_dict().items():
                sim.check(torch.equal(tensor, unsplit()[name]), f"{name} is not plain torch's")
        await swarm.stop()
