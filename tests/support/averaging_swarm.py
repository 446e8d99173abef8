"""Several daemons' averagers on a network in memory and on virtual time, for unit tests."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from distqatd.averaging.averager import Averager
from distqatd.averaging.records import Committed
from distqatd.averaging.roster import Member, leader_order
from distqatd.base.errors import DistqatError
from distqatd.base.events import EventLog
from distqatd.base.ids import ExpertUid, make_uid
from distqatd.base.intervals import IntervalSet
from distqatd.base.rng import seeded_rng
from distqatd.compute.book import NO_BATCHES
from distqatd.config.sections import DilocoConfig
from distqatd.net.meter import Meter
from tests.sim.loop import VirtualLoop
from tests.support.inline_executor import InlineExecutor
from tests.support.memory_disk import MemoryDisk
from tests.support.memory_rpc import MemoryNetwork, MemoryRpc

STAGE = "tail"


def on_virtual_time(work: Awaitable[Any], limit_s: float = 600.0) -> Any:
    """Run a coroutine to its end on a loop where waiting costs nothing."""
    loop = VirtualLoop(limit_s)
    loop.set_exception_handler(_fail_on_bugs)
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


def _fail_on_bugs(loop: Any, context: dict[str, Any]) -> None:
    """Fail on whatever nobody handled, but for answers to calls that were given up meanwhile."""
    error = context.get("exception")
    if not isinstance(error, DistqatError):
        unhandled = RuntimeError(f"unhandled in the loop: {context['message']}: {error!r}")
        unhandled.__cause__ = error
        loop.fail(unhandled)


class FixedClock:
    """A wall clock that stands still."""

    def now(self) -> float:
        return 1_700_000_000.0


@dataclass
class Gift:
    """A contribution."""

    pseudo_gradient: Tensor
    samples: int = 1
    outer_step: int = 0
    anchor_digest: str = "anchor"
    int_buffers: dict[str, int] = field(default_factory=dict)
    batches: IntervalSet = NO_BATCHES
    num_coded: int = 1 << 40
    voters: tuple[str, ...] = ()
    num_averaged: int = 1 << 40


@dataclass
class Replica:
    """One daemon with one expert. `step` and `anchor` are what its roster entry says."""

    uid: ExpertUid
    rpc: MemoryRpc
    averager: Averager
    executor: InlineExecutor
    meter: Meter
    step: int = 0
    anchor: str = "anchor"
    is_dialable: bool = True
    opened: list[tuple[int, float]] = field(default_factory=list)
    hurry: Callable[[int, float], None] = lambda *_: None

    def on_open(self, uid: ExpertUid, outer_step: int, seconds_left: float) -> None:
        self.opened.append((outer_step, seconds_left))
        self.hurry(outer_step, seconds_left)


class Swarm:
    """`num` replicas of one stage that all see each other."""

    def __init__(self, num: int, seed: int = 0, **config: Any) -> None:
        self.network = MemoryNetwork()
        self.config = DilocoConfig(**{"averaging_timeout": 24.0, **config})
        self.replicas = [self._replica(index, seed) for index in range(num)]
        self._runs: list[asyncio.Task[None]] = []

    def _replica(self, index: int, seed: int) -> Replica:
        rpc = self.network.peer(f"peer{index}")
        events = EventLog(FixedClock())
        rng = seeded_rng(seed, index)
        executor = InlineExecutor()
        meter = Meter()
        averager = Averager(
            rpc, executor, self.config, FixedClock(), rng, events, MemoryDisk(), meter
        )
        return Replica(make_uid(STAGE, index), rpc, averager, executor, meter)

    async def __aenter__(self) -> "Swarm":
        loop = asyncio.get_running_loop()
        for replica in self.replicas:
            replica.averager.attach(replica.uid, STAGE, self.roster, replica.on_open)
            self._runs.append(loop.create_task(replica.averager.run()))
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._runs:
            task.cancel()
        await asyncio.wait(self._runs)

    def roster(self) -> tuple[Member, ...]:
        return tuple(
            Member(r.uid, r.rpc.peer_id, r.step, r.anchor, r.is_dialable) for r in self.replicas
        )

    def only_calls(self, index: int) -> Replica:
        """Put a replica into client mode: nobody can connect to it."""
        replica = self.replicas[index]
        replica.is_dialable = False
        self.network.only_calls(replica.rpc.peer_id)
        return replica

    def order(self, step: int = 0) -> list[Replica]:
        """Return the replicas in the order in which they would lead."""
        by_uid = {replica.uid: replica for replica in self.replicas}
        return [by_uid[uid] for uid in leader_order(STAGE, step, by_uid)]

    async def round(
        self, gifts: list[Gift | None], delays_s: list[float] | None = None
    ) -> list[Committed | DistqatError | None]:
        """Let each replica that has a gift call `round` after its delay; collect the outcomes."""
        outcomes: list[Committed | DistqatError | None] = [None] * len(gifts)

        async def one(index: int, gift: Gift) -> None:
            replica = self.replicas[index]
            await asyncio.sleep(delays_s[index] if delays_s else 0.0)
            try:
                outcomes[index] = await replica.averager.round(replica.uid, gift)
            except DistqatError as error:
                outcomes[index] = error

        async with asyncio.TaskGroup() as tasks:
            for index, gift in enumerate(gifts):
                if gift is not None:
                    tasks.create_task(one(index, gift))
        return outcomes


def gifts(num: int, size: int = 50, samples: list[int] | None = None) -> list[Gift]:
    """Return contributions with distinct random values."""
    made = []
    for index in range(num):
        generator = torch.Generator().manual_seed(index)
        values = torch.randn(size, generator=generator)
        made.append(Gift(values, samples[index] if samples else index + 1))
    return made
