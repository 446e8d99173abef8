"""A seed becomes a schedule: how many replicas, what weather, and what goes wrong when."""

from dataclasses import dataclass

from distqatd.base.rng import seeded_rng
from tests.sim.rounds.network import Weather

CRASH, POWER, PARTITION, RESET, DEATH = "crash", "power", "partition", "reset", "death"
TAKEN = "taken"
"""The first replica that takes a step is cut off right then, and some of the others restart."""

KINDS = (CRASH, CRASH, CRASH, POWER, PARTITION, PARTITION, RESET, DEATH, TAKEN)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        kind: a replica's machine crashes, loses power, dies for good; or links are cut or reset.
        wait_s: before it, since the fault before.
        leader: whether the replica that leads the current step is struck, or a random one.
        point: await point of the replica at which it is struck, counted from then.
        for_s: how long it lasts.
        others: how many replicas besides are struck with it, or on its side of a partition.
    """

    kind: str
    wait_s: float
    leader: bool
    point: int
    for_s: float
    others: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """What happens in one simulation."""

    num_replicas: int
    weather: Weather
    faults: tuple[Fault, ...]


def draw(seed: int) -> Schedule:
    """Return the schedule of a seed."""
    rng = seeded_rng("rounds", seed)
    num = rng.choice([1, 2, 2, 3, 3, 3, 4, 4, 5, 5, 6, 7, 8])
    rough = rng.random() < 0.6
    weather = Weather(
        loss=rng.choice([0.0, 0.01, 0.04]) if rough else 0.0,
        duplication=rng.choice([0.0, 0.1, 0.3]) if rough else 0.0,
        lateness=rng.choice([0.0, 0.05, 0.2]) if rough else 0.0,
        latency_s=rng.choice([0.002, 0.02, 0.1]),
    )
    faults = tuple(
        Fault(
            kind=rng.choice(KINDS if num > 1 else (CRASH, POWER)),
            wait_s=rng.uniform(0, 1.5),
            leader=rng.random() < 0.5,
            point=rng.randint(0, 40 + 40 * num),
            for_s=rng.uniform(0.05, 8.0),
            others=rng.choice([0, 0, 0, 1, 2, 7]),
        )
        for _ in range(rng.randint(1, 3))
    )
    return Schedule(num, weather, faults)
