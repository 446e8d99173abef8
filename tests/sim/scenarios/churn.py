"""Whole daemons that die, come back, or come late, while the others train on."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from distqatd.compute.expert import Expert
from distqatd.pipeline.hosted import HostedExpert
from tests.sim.registry import scenario
from tests.sim.scenarios.whole_swarm import Swarm, make_config
from tests.sim.sim import Sim

WITHIN_S = 900.0
"""Virtual seconds for a run; a silent peer costs a call's deadline now and then."""


@dataclass
class Book:
    """Who applied which batch, written down where it happens."""

    applied: Counter[tuple[str, int]] = field(default_factory=Counter)

    def most(self) -> int:
        """Return how often a stage applied one batch, at most."""
        return max(self.applied.values(), default=0)

    def batches(self, stage: str) -> set[int]:
        """Return the batches that a stage applied on any of its replicas."""
        return {batch for name, batch in self.applied if name == stage}


@contextmanager
def watched() -> Iterator[Book]:
    """Write down every batch that any expert applies."""
    book = Book()
    asked: dict[int, int] = {}
    commit, apply = HostedExpert.commit, Expert.apply

    async def watched_commit(self, call):
        asked[id(self.expert)] = call.batch
        return await commit(self, call)

    def watched_apply(self, num_samples):
        result = apply(self, num_samples)
        book.applied[self.uid.split(".")[0], asked[id(self)]] += 1
        return result

    HostedExpert.commit, Expert.apply = watched_commit, watched_apply
    try:
        yield book
    finally:
        HostedExpert.commit, Expert.apply = commit, apply


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


async def finish(swarm: Swarm, book: Book, outer_steps: int, num_experts: int) -> None:
    """Wait for the end of the run and check what must hold however it went."""
    sim = swarm.sim
    await sim.until(swarm.is_finished, within_s=WITHIN_S, what="the run is finished", every_s=0.5)
    await sim.until(
        lambda: len(swarm.experts()) == num_experts,
        within_s=60,
        what=f"{num_experts} experts serve",
    )
    swarm.check_identical()
    ledger = swarm.client.ledger
    sim.check(ledger.lost() == 0, f"{ledger.lost()} batches lost")
    sim.check(ledger.duplicated == 0, f"{ledger.duplicated} batches duplicated")
    steps = [hosted.expert.outer_step for hosted in swarm.experts()]
    sim.check(min(steps) >= outer_steps, f"outer steps {steps}")
    sim.check(book.most() <= 1, f"a stage applied a batch twice: {book.applied.most_common(3)}")


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
        await sim.until(
            lambda: joiner in swarm.nodes and any(e.hosted for e in swarm.nodes[joiner].experts),
            within_s=60,
            what="the joiner serves",
        )
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
        await finish(swarm, Book(), outer_steps=2, num_experts=4)
        # What a dead trainer committed after its last report is trained once more, never thrice.
        sim.check(book.most() <= 2, f"applied too often: {book.applied.most_common(3)}")
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
        swarm.hosts[ip].restart()
        await sim.until(
            lambda: any(e.hosted for e in swarm.nodes[ip].experts), within_s=120, what="it serves"
        )
        await finish(swarm, book, outer_steps=2, num_experts=4)
        await swarm.stop()
