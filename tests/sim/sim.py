"""One simulation: machines on a simulated network under virtual time, all from one seed."""

import asyncio
import gc
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from distqatd.base.rng import seeded_rng
from tests.sim.cheaper import remembered
from tests.sim.host import Host
from tests.sim.loop import START_S, VirtualLoop
from tests.sim.network import Network, Weather
from tests.sim.streams import SimStream
from tests.sim.trace import Trace
from tests.sim.transport import SimTransport

CLEANUP_S = 120.0
"""Virtual seconds that cancelled tasks may take to end after a scenario."""


class Violation(AssertionError):
    """Something that must hold did not."""


class SimFailure(AssertionError):
    """A scenario failed; the message has the seed and the command that replays it."""


class Sim:
    """What a scenario holds in its hands."""

    def __init__(self, loop: VirtualLoop, seed: int, trace: Trace) -> None:
        self.loop = loop
        self.seed = seed
        self.rng = seeded_rng(seed, "scenario")
        self.net = Network(loop, seed, Weather(), trace)

    @property
    def now_s(self) -> float:
        """Return virtual seconds since the scenario began."""
        return self.loop.time() - START_S

    @property
    def hosts(self) -> list[Host]:
        """Return all machines in the order they were made."""
        return list(self.net.hosts.values())

    def host(self, *, skew_s: float = 0.0, ip: str | None = None) -> Host:
        """Add a machine whose wall clock is `skew_s` ahead."""
        number = len(self.net.hosts) + 1
        ip = ip or f"10.0.{number // 250}.{number % 250}"
        return Host(self.net, ip, self.seed, partial(_transport, self.net), skew_s)

    def partition(self, group: Iterable[Host], others: Iterable[Host] | None = None) -> None:
        """Separate machines from others (by default from everybody else)."""
        ips = None if others is None else [host.ip for host in others]
        self.net.partition([host.ip for host in group], ips)

    def heal(self, group: Iterable[Host] | None = None) -> None:
        """End all partitions, or those that `group` is part of."""
        self.net.heal(None if group is None else [host.ip for host in group])

    def refuse_connections(self, host: Host) -> None:
        """Let no connection through to a machine from now on; those that it makes work."""
        self.net.refusing.add(host.ip)

    def lose_power(self, host: Host) -> None:
        """Crash a machine so that nobody is told: no resets, only silence.

        A `heal` of the machine, best right before its restart, makes it reachable again.
        """
        self.partition([host])
        host.crash()

    def reset_links(self, one: Host, other: Host) -> None:
        """Break all streams between two machines, as a middlebox that lost its state does."""
        for end in [each for each in one.sockets if isinstance(each, SimStream)]:
            if end.remote.host == other.ip:
                end.break_both()

    def note(self, text: str) -> None:
        """Add a line of the scenario's own to the trace."""
        self.net.record("note", text)

    def check(self, condition: object, message: str) -> None:
        """Fail the simulation unless `condition` holds, whoever catches what this raises."""
        if not condition:
            violation = Violation(message)
            self.loop.fail(violation)
            raise violation

    async def until(
        self, condition: Callable[[], object], *, within_s: float, what: str, every_s: float = 0.05
    ) -> None:
        """Let time pass until `condition()` is true.

        Raises:
            Violation: it did not become true in `within_s` virtual seconds.
        """
        deadline_s = self.loop.time() + within_s
        while not condition():
            if self.loop.time() >= deadline_s:
                raise Violation(f"not within {within_s} s: {what}")
            await asyncio.sleep(every_s)


Scenario = Callable[[Sim], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Report:
    """How a simulation went. Reports of the same scenario and seed are equal."""

    seed: int
    trace: str
    virtual_s: float
    counts: dict[str, int]
    value: Any


def scenario_name(scenario: Scenario) -> str:
    """Return the name under which `python -m tests.sim` finds the scenario."""
    name = getattr(scenario, "scenario_name", None)
    return name or f"{scenario.__module__}:{scenario.__qualname__}"


def run(
    scenario: Scenario, seed: int, *, limit_s: float = 86_400.0, trace: Trace | None = None
) -> Report:
    """Run a scenario to its end on a fresh loop.

    Raises:
        SimFailure: it raised, deadlocked, span, ran over `limit_s`, or left tasks that cannot
            be cancelled; the cause is attached.
    """
    loop = VirtualLoop(limit_s)
    trace = trace or Trace()
    sim = Sim(loop, seed, trace)
    with _reproducible(seed), remembered():
        try:
            value = loop.run_until_complete(_main(scenario, sim))
            virtual_s = sim.now_s
            _clean_up(sim)
        except Exception as error:
            raise SimFailure(_message(scenario, sim, error)) from error
        finally:
            _close(sim)
    return Report(seed, trace.hexdigest(), virtual_s, dict(sim.net.counts), value)


def assert_reproducible(scenario: Scenario, seed: int) -> Report:
    """Run a scenario twice; raise SimFailure at the first delivery that differs."""
    traces = [Trace(keep_lines=True), Trace(keep_lines=True)]
    first, second = (run(scenario, seed, trace=trace) for trace in traces)
    if first != second:
        lines, again = (trace.lines or [] for trace in traces)
        pairs = [*zip(lines, again, strict=False), ("(end)", "(end)")]
        at = next((n for n, (one, two) in enumerate(pairs) if one != two), len(pairs) - 1)
        raise SimFailure(
            f"{scenario_name(scenario)} differs between two runs of seed {seed}, from delivery"
            f" {at}: {pairs[at][0]!r} and {pairs[at][1]!r}"
        )
    return first


async def _main(scenario: Scenario, sim: Sim) -> Any:
    """Run the scenario; an error on a machine that ended it first is the one to report."""
    value = await scenario(sim)
    if sim.loop.failure is not None:
        raise sim.loop.failure
    return value


def _transport(network: Network, host: Host) -> SimTransport:
    return SimTransport(network, host, host.life)


def _message(scenario: Scenario, sim: Sim, error: Exception) -> str:
    name = scenario_name(scenario)
    return (
        f"{name} failed with seed {sim.seed} at {sim.now_s:.3f} virtual seconds:"
        f" {type(error).__name__}: {error}\n"
        f"replay: python -m tests.sim --scenario {name} --seed {sim.seed} --trace"
    )


def _clean_up(sim: Sim) -> None:
    """Kill all machines and see that every task ends when it is cancelled."""
    loop = sim.loop
    loop.limit_s = loop.time() + CLEANUP_S
    for host in sim.hosts:
        host.crash()
    tasks = loop.tasks()
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks))
    if loop.failure is not None:
        raise loop.failure


def _close(sim: Sim) -> None:
    """Close the loop; after a failure, tasks get a chance to end so that nothing is left over."""
    loop = sim.loop
    loop.failure = None
    loop.set_exception_handler(lambda *_: None)
    loop.limit_s = loop.time() + CLEANUP_S
    for host in sim.hosts:
        host.life.alive = False
    for _ in range(3):
        tasks = loop.tasks()
        for task in tasks:
            task.cancel()
        if tasks:
            _run_quietly(loop, asyncio.wait(tasks))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def _run_quietly(loop: VirtualLoop, work: Any) -> None:
    """Run cleanup after a failure that is already being reported."""
    try:
        loop.run_until_complete(work)
    except Exception:  # the first failure is the one that counts
        loop.failure = None


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """Fix what code could draw from behind our back: the global generator, the collector's timing.

    A garbage collection runs finalizers after a number of allocations that depends on everything
    the process did before, so there is none during a simulation.
    """
    state, collecting = random.getstate(), gc.isenabled()
    random.seed(seed)
    gc.disable()
    try:
        yield
    finally:
        random.setstate(state)
        if collecting:
            gc.enable()
