"""A simulated machine: it boots, runs a program, crashes, and boots again with the same disk."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from typing import Any, Protocol

from distqatd.base.rng import Rng, seeded_rng
from distqatd.identity.keys import Identity
from distqatd.net.transport import Transport
from tests.sim.loop import LIFE, START_S, Life, SimTask
from tests.sim.network import Network

EPOCH_UNIX_S = 1_700_000_000.0
"""Wall time at which every simulation begins."""


class Socket(Protocol):
    """What a crash takes down."""

    def abort(self) -> None:
        """Close at once, telling the other side if there is one."""
        ...


class SimClock:
    """A machine's wall clock: wrong by `skew_s`, and going wrong by `drift` seconds per second."""

    def __init__(self, loop: asyncio.AbstractEventLoop, skew_s: float, drift: float = 0.0) -> None:
        self.skew_s = skew_s
        self.drift = drift
        self._loop = loop

    def now(self) -> float:
        """Return what this machine believes to be seconds since the Unix epoch."""
        elapsed_s = self._loop.time() - START_S
        return EPOCH_UNIX_S + elapsed_s * (1.0 + self.drift) + self.skew_s


class Host:
    """One machine. `disk` survives crashes; `life`, `rng` and `transport` are new at every boot."""

    transport: Transport
    life: Life
    rng: Rng

    def __init__(
        self,
        network: Network,
        ip: str,
        seed: object,
        make_transport: Callable[["Host"], Transport],
        skew_s: float = 0.0,
    ) -> None:
        self.ip = ip
        self.identity = Identity.generate(seeded_rng(seed, "identity", ip))
        self.clock = SimClock(network.loop, skew_s)
        self.disk: dict[str, Any] = {}
        self.boots = 0
        self.sockets: dict[Socket, None] = {}
        self._network = network
        self._seed = seed
        self._make_transport = make_transport
        self._main: Callable[[Host], Awaitable[None]] | None = None
        network.hosts[ip] = self
        self._boot()

    @property
    def alive(self) -> bool:
        """Return whether the machine's program may run."""
        return self.life.alive

    def start(self, main: Callable[["Host"], Awaitable[None]]) -> SimTask:
        """Run `main(self)` on this machine; an error that leaves it ends the simulation."""
        self._main = main
        return self.spawn(main(self), name="main")

    def spawn(self, work: Awaitable[Any], *, name: str) -> SimTask:
        """Run something on this machine; it ends with the machine's life.

        An error that leaves it ends the simulation.
        """
        loop, name = self._network.loop, f"{self.ip}.{name}"
        return loop.create_task(self._watched(work), name=name, context=self.context())

    def context(self) -> Context:
        """Return a context in which new tasks belong to this machine's present life."""
        context = copy_context()
        context.run(LIFE.set, self.life)
        return context

    def crash(self) -> None:
        """Kill the program: sockets are reset, tasks are cancelled, nothing is flushed.

        Cleanup code of cancelled tasks still runs, but nothing it sends leaves the machine.
        """
        self.life.alive = False
        for socket in list(self.sockets):
            socket.abort()
        for task in self._network.loop.tasks():
            if task.life is self.life:
                task.cancel("the machine has crashed")

    def restart(self) -> SimTask:
        """Boot again and run the same program; a living machine is crashed first."""
        if self._main is None:
            raise ValueError(f"{self.ip} was never started")
        if self.alive:
            self.crash()
        self._boot()
        return self.start(self._main)

    def _boot(self) -> None:
        self.boots += 1
        self.life = Life(f"{self.ip}#{self.boots}")
        self.rng = seeded_rng(self._seed, self.ip, self.boots)
        self.sockets = {}
        self.transport = self._make_transport(self)

    async def _watched(self, work: Awaitable[Any]) -> Any:
        life = self.life
        try:
            return await work
        except Exception as error:
            if life.alive:
                self._network.loop.fail(error)
            return None
