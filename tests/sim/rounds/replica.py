"""An expert without a model: it trains on numbers and takes outer steps with the real averager.

As in the daemon, a replica that is left behind loads the newest state of another one and keeps
what only it has trained; one that restarts has lost what it trained since, and its means.
"""

import asyncio
from dataclasses import dataclass

import torch
from torch import Tensor

from distqatd.averaging.averager import Averager
from distqatd.averaging.records import Committed
from distqatd.averaging.roster import Member
from distqatd.base.errors import DistqatError
from distqatd.base.events import EventLog
from distqatd.base.ids import ExpertUid
from distqatd.base.intervals import IntervalSet
from distqatd.compute.book import NO_BATCHES, BatchBook
from distqatd.compute.carrying import carry
from distqatd.config.sections import DilocoConfig
from distqatd.optim.digest import digest
from tests.sim.host import Host
from tests.sim.rounds.ledger import SIZE, Truth, pseudo_gradient_of
from tests.sim.rounds.network import CallEnd, Calls
from tests.support.averaging_swarm import Gift
from tests.support.inline_executor import InlineExecutor
from tests.support.memory_disk import MemoryDisk

STAGE = "tail"
CONFIG = DilocoConfig(averaging_timeout=12.0)


@dataclass(frozen=True)
class Anchor:
    """A committed state, as a snapshot holds it."""

    step: int
    values: Tensor
    inside: IntervalSet = NO_BATCHES
    voters: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        return digest(self.values)

    def after(self, committed: Committed) -> "Anchor":
        """Return the anchor after an outer step."""
        return Anchor(
            committed.outer_step,
            self.values - 0.5 * committed.mean,
            self.inside.union(committed.batches),
            committed.voters,
        )


SEEDED = Anchor(0, torch.zeros(SIZE))


class SlowDisk(MemoryDisk):
    """A disk that takes its time, and none of whose writes happen after a crash."""

    def __init__(self, host: Host) -> None:
        super().__init__(host.disk, "ballots")
        self._host, self._life = host, host.life
        self.on_write = self._wait

    async def _wait(self) -> None:
        await asyncio.sleep(self._host.rng.uniform(0, 0.01))
        if not self._life.alive:
            raise asyncio.CancelledError


class Replica:
    """One expert on one machine, over all its lives."""

    def __init__(self, uid: ExpertUid, host: Host, swarm: "Replicas") -> None:
        self.uid = uid
        self.host = host
        self.is_gone = False
        self.averager: Averager | None = None
        self.active_since: float | None = None
        self._swarm = swarm
        self._local = IntervalSet()
        self._contributed = IntervalSet()
        self._due = asyncio.Event()
        self._seen: dict[str, tuple[int, str]] = {}

    @property
    def anchor(self) -> Anchor:
        """Return the committed state; a mirror would have it after a crash."""
        return self.host.disk.get("anchor", SEEDED)

    async def run(self, host: Host) -> None:
        """Train and take outer steps until the machine dies."""
        swarm = self._swarm
        self._local, self._contributed, self._due = IntervalSet(), IntervalSet(), asyncio.Event()
        end = CallEnd(swarm.calls, host, self.uid + ".peer")
        executor = InlineExecutor(host.rng.choice([0.0, 0.002, 0.05]))
        events = EventLog(host.clock)
        disk = SlowDisk(host)
        self.averager = Averager(end, executor, CONFIG, host.clock, host.rng, events, disk)
        self.averager.attach(self.uid, STAGE, self._roster, self._opened)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.averager.run(), name="averager")
            while True:
                await self._train()
                await self._round(self.averager)

    def _roster(self) -> tuple[Member, ...]:
        """Return the records of the stage as this machine knows them: old ones if it is cut off.

        A record that nobody refreshes lapses, also where its publisher cannot be reached.
        """
        for other in self._swarm.reachable(self):
            if other is self or self.host.rng.random() < 0.7:
                self._seen[other.uid] = (other.anchor.step, other.anchor.digest)
        return tuple(
            Member(r.uid, r.uid + ".peer", *self._seen.get(r.uid, (0, SEEDED.digest)))
            for r in self._swarm.all
            if not r.is_gone
        )

    async def _train(self) -> None:
        """Train for a while, or until others wait for us."""
        try:
            async with asyncio.timeout(self.host.rng.uniform(0.2, 1.5)):
                await self._due.wait()
        except TimeoutError:
            pass
        self._due.clear()
        for _ in range(self.host.rng.choice([1, 1, 2, 0])):
            batch = self._swarm.truth.train(self.uid)
            self._local = self._local.add(batch, batch + 1)

    def _opened(self, _: ExpertUid, outer_step: int, seconds_left: float) -> None:
        if outer_step > self.anchor.step:
            self._due.set()

    async def _round(self, averager: Averager) -> None:
        anchor, truth = self.anchor, self._swarm.truth
        self._contributed = self._local
        truth.bring(self.uid, self._local)
        gift = Gift(
            pseudo_gradient_of(self._local),
            len(self._local),
            anchor.step,
            anchor.digest,
            {},
            self._local,
            voters=anchor.voters,
        )
        try:
            committed = await averager.round(self.uid, gift)
        except DistqatError:
            await self._catch_up()
            return
        self.commit(committed)

    def commit(self, committed: Committed) -> None:
        """Apply an outer step; what was trained since its contribution is kept."""
        anchor = self.anchor.after(committed)
        self._swarm.truth.take(self.uid, self.anchor.step, committed, anchor.digest)
        self._local = self._local.minus(committed.batches)
        self.host.disk["anchor"] = anchor

    async def _catch_up(self) -> None:
        """Load the newest state that can be reached, if it is past ours."""
        await asyncio.sleep(self.host.rng.uniform(0.01, 0.3))
        others = [other for other in self._swarm.reachable(self) if other is not self]
        newest = max((other.anchor for other in others), key=lambda a: a.step, default=SEEDED)
        if newest.step <= self.anchor.step:
            return
        self._swarm.truth.load(self.uid, newest.step, newest.digest)
        book = BatchBook(self.anchor.inside, self._local)
        self._local = carry(book, self._contributed, newest.inside).value.kept
        self.host.disk["anchor"] = newest


class Replicas:
    """All replicas of one stage."""

    def __init__(self, calls: Calls, truth: Truth) -> None:
        self.calls = calls
        self.truth = truth
        self.all: list[Replica] = []

    def living(self) -> list[Replica]:
        """Return those that run."""
        return [replica for replica in self.all if replica.host.alive]

    def reachable(self, source: Replica) -> list[Replica]:
        """Return the living replicas that a replica can talk to."""
        peer = source.uid + ".peer"
        return [r for r in self.living() if self.calls.reaches(peer, r.uid + ".peer")]
