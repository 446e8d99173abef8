"""What goes wrong in one simulation, as data: machines, the weather, and a list of faults."""

from dataclasses import dataclass, field

from tests.sim.network import Weather

CRASH = "crash"
"""The process is killed; its sockets are reset, so the others know at once."""

POWER = "power"
"""The machine loses power: nobody is told."""

RESTART = "restart"
"""Killed, and started again with the same identity after `for_s`."""

BLACKOUT = "blackout"
"""Power is lost, and the machine boots again with the same identity after `for_s`."""

PARTITION = "partition"
"""The machines named are cut off from all others for `for_s`."""

DEAF = "deaf"
"""What is sent to the machine is not delivered for `for_s`; what it sends is."""

FLAP = "flap"
"""The machine is cut off and comes back, again and again, until `for_s` is over."""

SLOW = "slow"
"""The machine computes 50 times slower for `for_s`."""

JOIN = "join"
"""A new machine with the roles of `machines[0]` (by name up to the dot) joins."""

DRAIN = "drain"
"""The expert is drained, and resumed `for_s` after it has left."""

REASSIGN = "reassign"
"""The expert moves to the other stage, if that leaves somebody behind."""

SPLITS = {PARTITION, DEAF, FLAP}
HAS_END = {RESTART, BLACKOUT, PARTITION, DEAF, FLAP, SLOW, DRAIN}


@dataclass(frozen=True, slots=True)
class Machine:
    """A daemon of the swarm.

    Attributes:
        name: its first role and a number, as `expert.0`.
        skew_s: how wrong its wall clock is.
        starts_s: virtual seconds after the one before it.
    """

    name: str
    roles: tuple[str, ...]
    skew_s: float = 0.0
    starts_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens to machines at a moment of the run.

    The moment: `after_steps` inner steps have been applied (by any expert), then `wait_s` have
    passed, and then the first machine has come to its next await point number `await_point`.

    Attributes:
        machines: names; several die at the same instant.
        for_s: how long it lasts, for those that end.
    """

    kind: str
    machines: tuple[str, ...]
    after_steps: int = 0
    wait_s: float = 0.0
    await_point: int = 0
    for_s: float = 0.0

    def __str__(self) -> str:
        """Return it as one line."""
        lasts = f" for {self.for_s:.2f} s" if self.kind in HAS_END else ""
        at = f"{self.after_steps} steps + {self.wait_s:.2f} s + await point {self.await_point}"
        return f"{self.kind} {' '.join(self.machines)}{lasts} after {at}"


@dataclass(frozen=True, slots=True)
class Plan:
    """One simulation.

    Attributes:
        family: which kind of trouble it is.
        diloco: settings of the run that differ from the tiny run's.
        has_real_dht: whether records travel in datagrams, or in `elastic.dht`.
    """

    family: str
    machines: tuple[Machine, ...]
    faults: tuple[Fault, ...]
    weather: Weather = field(default_factory=Weather)
    diloco: tuple[tuple[str, object], ...] = ()
    has_real_dht: bool = True

    @property
    def is_orderly(self) -> bool:
        """Return whether nothing breaks: then no step may be given up."""
        return all(fault.kind in {DRAIN, REASSIGN, JOIN} for fault in self.faults)

    @property
    def can_split(self) -> bool:
        """Return whether machines that live may not hear of each other for a while."""
        return any(fault.kind in SPLITS for fault in self.faults)

    def __str__(self) -> str:
        """Return it as lines."""
        machines = ", ".join(f"{m.name} ({m.skew_s:+.0f} s)" for m in self.machines)
        return "\n".join(
            [f"{self.family}: {machines}; {self.weather}", *(f"  {each}" for each in self.faults)]
        )
