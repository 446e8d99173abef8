"""One replica of the rounds bench: it takes outer steps with others, and may be killed any time.

Its promises are in a file, as a daemon's; its anchor is in memory. Times are of the machine's
monotonic clock, which all processes share.
"""

import asyncio
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distqatd.averaging.averager import Averager
from distqatd.averaging.roster import Member
from distqatd.base.clock import SystemClock
from distqatd.base.disk import FileDisk
from distqatd.base.errors import RoundAborted
from distqatd.base.events import EventLog
from distqatd.base.ids import make_uid
from distqatd.base.intervals import IntervalSet
from distqatd.base.rng import system_rng
from distqatd.compute.executor import DeviceExecutor
from distqatd.config.sections import DilocoConfig
from distqatd.net.address import Address
from distqatd.net.pool import Pool
from distqatd.optim.digest import digest
from tests.bench import links
from tests.bench.children import say, serve_on_loop

STAGE = "bench"
CONFIG = DilocoConfig(averaging_timeout=20.0)
LEARNING_RATE = 0.7
MAX_TRIES = 5


@dataclass(frozen=True)
class Brought:
    """A contribution; see `ContributionLike`."""

    pseudo_gradient: Tensor
    samples: int
    outer_step: int
    anchor_digest: str
    int_buffers: dict[str, int]
    batches: IntervalSet
    num_coded: int
    voters: tuple[str, ...]


class End:
    """One replica."""

    def __init__(self, rank: int, num: int, num_values: int, folder: Path, pool: Pool) -> None:
        self._rank, self._num = rank, num
        self._pool = pool
        self._uid = make_uid(STAGE, rank)
        self._step, self._voters = 0, ()
        self._anchor = torch.zeros(num_values)
        clock = SystemClock()
        disk = FileDisk(folder / "ballots.json", _in_thread)
        events = EventLog(clock)
        executor = DeviceExecutor("bench", 1)
        self.averager = Averager(pool, executor, CONFIG, clock, system_rng(), events, disk)
        self.averager.attach(self._uid, STAGE, self._roster)
        self._events = events

    def _roster(self) -> tuple[Member, ...]:
        own = digest(self._anchor)
        return tuple(
            Member(make_uid(STAGE, rank), links.peer_id(_name(rank)), self._step, own)
            for rank in range(self._num)
        )

    async def meet(self, addresses: list[tuple[str, int]]) -> dict[str, Any]:
        """Learn where the others are."""
        for rank, (host, port) in enumerate(addresses):
            if rank != self._rank:
                self._pool.learn(links.peer_id(_name(rank)), [Address(host, port)])
        return {}

    async def take(self) -> dict[str, Any]:
        """Take one outer step together with the others."""
        generator = torch.Generator().manual_seed(self._step * self._num + self._rank)
        brought = Brought(
            torch.randn(self._anchor.numel(), generator=generator),
            1 + self._rank,
            self._step,
            digest(self._anchor),
            {},
            IntervalSet(),
            self._anchor.numel(),
            self._voters,
        )
        say(began=time.monotonic())
        reasons: list[str] = []
        for _ in range(MAX_TRIES):
            try:
                committed = await self.averager.round(self._uid, brought)
            except RoundAborted as error:
                reasons.append(str(error))
                continue
            self._anchor -= LEARNING_RATE * committed.mean
            self._step, self._voters = committed.outer_step, committed.voters
            return {**self._where(), "members": len(committed.members), "aborted": reasons}
        return {**self._where(), "members": 0, "aborted": reasons}

    async def save(self, path: str) -> dict[str, Any]:
        """Write our state for a replica that comes back."""
        torch.save({"step": self._step, "voters": self._voters, "anchor": self._anchor}, path)
        return {}

    async def load(self, path: str) -> dict[str, Any]:
        """Take over what another one saved."""
        state = torch.load(path, weights_only=True)
        self._step, self._anchor = state["step"], state["anchor"]
        self._voters = tuple(state["voters"])
        return self._where()

    def _where(self) -> dict[str, Any]:
        return {"step": self._step, "digest": digest(self._anchor), "ended": time.monotonic()}


async def _in_thread(work: Any) -> object:
    return await asyncio.get_running_loop().run_in_executor(None, work)


def _name(rank: int) -> str:
    return f"replica{rank}"


async def run(rank: int, num: int, num_values: int, folder: Path) -> None:
    """Serve the parent until it is gone."""
    epoch = time.time_ns() // 1_000_000
    async with (
        links.running_pool(_name(rank), secure=True, boot_epoch=epoch) as (pool, address),
        asyncio.TaskGroup() as tasks,
    ):
        end = End(rank, num, num_values, folder, pool)
        running = tasks.create_task(end.averager.run())
        say(port=address.port)
        await serve_on_loop(
            {"meet": end.meet, "take": end.take, "save": end.save, "load": end.load}
        )
        running.cancel()


def main() -> None:
    """Take rank, number of replicas, number of values and a folder of our own."""
    torch.set_num_threads(1)
    rank, num, num_values = map(int, sys.argv[1:4])
    with links.loop() as runner:
        runner.run(run(rank, num, num_values, Path(sys.argv[4])))


if __name__ == "__main__":
    main()
