"""A plan for every seed: the family by the seed's remainder, everything else drawn from it.

Even seeds crash a machine at await points one after the other, so that a sweep leaves none out;
odd seeds are drawn freely.
"""

from collections.abc import Callable
from dataclasses import replace
from random import Random

from distqatd.base.rng import seeded_rng
from tests.sim.elastic import plan as p
from tests.sim.network import Weather

Draw = Callable[[Random, int], p.Plan]

OUTER_STEPS = 2
INNER_STEPS = 3
STEPS = 2 * OUTER_STEPS * INNER_STEPS
"""Steps that one pipeline of two stages applies until the run is over."""

PARTS: dict[str, object] = {
    "inner_steps": 2,
    "outer_steps": 4,
    "fragments": 2,
    "overlap_steps": 1,
}
"""What differs in every fifth seed: outer steps take one fragment after the other, and inner steps
go on beside them."""

REAL_DHT = 0.25
"""Share of the simulations in which records travel in real datagrams: half of all the work."""

NUM_POINTS = {"expert": 96, "trainer": 96, "client": 48}
"""Await points of one step, by role: the machine's callbacks between two commits."""


def draw(seed: int) -> p.Plan:
    """Return the plan of a seed."""
    plan = _draw(seeded_rng(seed, "plan"), seed)
    return replace(plan, diloco=tuple(PARTS.items())) if seed % 5 == 4 else plan


def _draw(rng: Random, seed: int) -> p.Plan:
    if seed % 2 == 0:
        return _await_point(rng, seed // 2)
    families = list(FAMILIES.values())
    return families[seed // 2 % len(families)](rng, seed)


# --- machines


def _machines(rng: Random, *names: str, within_s: float = 0.3) -> tuple[p.Machine, ...]:
    """Return the machines: a client, then the named in any order, at short intervals."""
    rest = rng.sample(names, len(names))
    return tuple(
        p.Machine(
            name,
            (name.split(".")[0],),
            rng.uniform(-600, 600),
            rng.uniform(0, within_s),
        )
        for name in ("client.0", *rest)
    )


def _names(role: str, number: int) -> list[str]:
    return [f"{role}.{i}" for i in range(number)]


def _weather(rng: Random) -> Weather:
    """Return fair weather half the time, else lost, doubled and late datagrams."""
    if rng.random() < 0.5:
        return Weather(latency_s=(0.002, 0.02))
    return Weather((0.002, 0.02), 0.005, loss=0.1, duplication=0.1, reordering=0.1)


def _plan(rng: Random, family: str, machines: tuple[p.Machine, ...], *faults: p.Fault) -> p.Plan:
    diloco = (("inner_steps", INNER_STEPS), ("outer_steps", OUTER_STEPS))
    has_real_dht = rng.random() < REAL_DHT
    return p.Plan(family, machines, faults, _weather(rng), diloco, has_real_dht)


def _steps(rng: Random) -> int:
    """Return how many inner steps are applied before trouble begins."""
    return rng.randrange(0, STEPS)


def _either(rng: Random, one: str, other: str) -> str:
    return one if rng.random() < 0.7 else other


# --- families


def _await_point(rng: Random, number: int) -> p.Plan:
    """One machine dies at an await point of a step; every role, every point."""
    everything = [(role, n) for role, most in NUM_POINTS.items() for n in range(1, most + 1)]
    role, point = everything[number % len(everything)]
    names = [*_names("expert", 4), *_names("trainer", 2)]
    steps = rng.randrange(1, STEPS)
    if role == "client":
        names.append("client.1")
    if rng.random() < 0.5:
        fault = p.Fault(p.CRASH, (f"{role}.0",), steps, 0.0, point)
    else:
        fault = p.Fault(p.RESTART, (f"{role}.0",), steps, 0.0, point, rng.uniform(0.1, 3.0))
    return _plan(rng, f"await-point-{role}", _machines(rng, *names), fault)


def _restarts(rng: Random, _: int) -> p.Plan:
    """Experts or trainers die and come back with the same identity, some of them twice."""
    names = [*_names("expert", 4), *_names("trainer", 2)]
    kind = _either(rng, p.RESTART, p.BLACKOUT)
    faults = [
        p.Fault(
            kind, (name,), _steps(rng), rng.uniform(0, 0.3), rng.randrange(50), rng.uniform(0, 4)
        )
        for name in rng.choices(names, k=rng.randrange(1, 3))
    ]
    return _plan(rng, "restarts", _machines(rng, *names), *faults)


def _partition(rng: Random, _: int) -> p.Plan:
    """Some machines are cut off from the others, both ways or one way, and healed."""
    names = [*_names("expert", 4), *_names("trainer", 2)]
    away = tuple(rng.sample(names, rng.randrange(1, 4)))
    kind = _either(rng, p.PARTITION, p.DEAF)
    fault = p.Fault(kind, away, _steps(rng), rng.uniform(0, 0.3), 0, rng.uniform(0.5, 25))
    return _plan(rng, "partition", _machines(rng, *names), fault)


def _flapping(rng: Random, _: int) -> p.Plan:
    """One machine comes and goes every second."""
    names = [*_names("expert", 4), *_names("trainer", 2)]
    fault = p.Fault(p.FLAP, (rng.choice(names),), _steps(rng), 0.0, 0, rng.uniform(3, 15))
    return _plan(rng, "flapping", _machines(rng, *names), fault)


def _slow(rng: Random, _: int) -> p.Plan:
    """One expert is fifty times slower than the others for a while."""
    names = [*_names("expert", 4), *_names("trainer", 2)]
    away = rng.choice(_names("expert", 4))
    fault = p.Fault(p.SLOW, (away,), _steps(rng), rng.uniform(0, 0.3), 0, rng.uniform(1, 20))
    return _plan(rng, "slow", _machines(rng, *names), fault)


def _mass_death(rng: Random, _: int) -> p.Plan:
    """A third or half of all experts die in the same instant; others join soon after."""
    names = [*_names("expert", 6), *_names("trainer", 2)]
    num_dead = rng.choice([2, 3])
    dead = tuple(rng.sample(_names("expert", 6), num_dead))
    steps = _steps(rng)
    kind = _either(rng, p.CRASH, p.POWER)
    fault = p.Fault(kind, dead, steps, rng.uniform(0, 0.3), rng.randrange(60))
    joins = tuple(f"expert.{6 + i}" for i in range(num_dead))
    join = p.Fault(p.JOIN, joins, steps, rng.uniform(1, 4))
    return _plan(rng, "mass-death", _machines(rng, *names), fault, join)


def _gap(rng: Random, _: int) -> p.Plan:
    """The only expert of a stage dies, and two join at the same time."""
    names = [*_names("expert", 2), "trainer.0"]
    steps = _steps(rng)
    kind = _either(rng, p.CRASH, p.POWER)
    fault = p.Fault(kind, (rng.choice(names[:2]),), steps, rng.uniform(0, 0.3), rng.randrange(60))
    join = p.Fault(p.JOIN, ("expert.2", "expert.3"), steps, rng.uniform(0.5, 4))
    return _plan(rng, "gap", _machines(rng, *names), fault, join)


def _trainer_lost(rng: Random, _: int) -> p.Plan:
    """All trainers die; the client starts one of its own."""
    num = rng.choice([1, 2])
    names = [*_names("expert", 4), *_names("trainer", num)]
    kind = _either(rng, p.CRASH, p.POWER)
    fault = p.Fault(kind, tuple(_names("trainer", num)), _steps(rng), 0.0, rng.randrange(60))
    return _plan(rng, "trainers-lost", _machines(rng, *names), fault)


def _client_lost(rng: Random, _: int) -> p.Plan:
    """The client dies, or is cut off; another one stands by, and the old one may come back."""
    names = [*_names("expert", 4), *_names("trainer", rng.randrange(3)), "client.1"]
    kind = rng.choice([p.CRASH, p.POWER, p.RESTART, p.BLACKOUT, p.PARTITION, p.DEAF])
    point, for_s = rng.randrange(60), rng.uniform(0.5, 20)
    steps = max(1, _steps(rng))  # whoever founds a swarm alone takes it along
    fault = p.Fault(kind, ("client.0",), steps, rng.uniform(0, 0.3), point, for_s)
    return _plan(rng, "client-lost", _machines(rng, *names), fault)


def _joins(rng: Random, _: int) -> p.Plan:
    """Everybody starts at the same time, and more join in the same instant later."""
    names = [*_names("expert", rng.randrange(2, 6)), *_names("trainer", 2)]
    num_late = rng.randrange(1, 4)
    late = tuple(f"expert.{6 + i}" for i in range(num_late))
    join = p.Fault(p.JOIN, late, _steps(rng), rng.uniform(0, 0.3))
    return _plan(rng, "joins", _machines(rng, *names, within_s=0.0), join)


def _orders(rng: Random, _: int) -> p.Plan:
    """Experts are drained and resumed, or moved to the other stage, while everybody trains."""
    names = [*_names("expert", 4), *_names("trainer", 2)]
    faults = [
        p.Fault(_either(rng, p.DRAIN, p.REASSIGN), (each,), steps, 0.0, 0, rng.uniform(0, 2))
        for each, steps in zip(rng.sample(_names("expert", 4), 2), (_steps(rng), 0), strict=True)
    ]
    return _plan(rng, "orders", _machines(rng, *names), *faults[: rng.randrange(1, 3)])


def _mixed(rng: Random, _: int) -> p.Plan:
    """Two or three things go wrong, at any time."""
    names = [*_names("expert", 4), *_names("trainer", 2)]
    faults = [
        p.Fault(
            rng.choice([p.RESTART, p.BLACKOUT, p.PARTITION, p.DEAF, p.FLAP, p.SLOW]),
            (rng.choice(names),),
            _steps(rng),
            rng.uniform(0, 0.5),
            rng.randrange(60),
            rng.uniform(0.2, 10),
        )
        for _ in range(rng.randrange(2, 4))
    ]
    return _plan(rng, "mixed", _machines(rng, *names), *faults)


FAMILIES: dict[str, Draw] = {
    "restarts": _restarts,
    "partition": _partition,
    "flapping": _flapping,
    "slow": _slow,
    "mass-death": _mass_death,
    "gap": _gap,
    "trainers-lost": _trainer_lost,
    "client-lost": _client_lost,
    "joins": _joins,
    "orders": _orders,
    "mixed": _mixed,
}
