"""A trainer role with real experts in memory, and a client that lends it batches."""

import asyncio
from contextlib import asynccontextmanager

import torch

from distqatd.base.errors import SwarmError
from distqatd.base.intervals import IntervalSet
from distqatd.base.rng import seeded_rng
from distqatd.base.tasks import Supervisor
from distqatd.config.sections import Config, DataConfig
from distqatd.data.batches import Batch
from distqatd.roles.batches import OwnBatches
from distqatd.roles.client_calls import START, SYNC, Grant, Report
from distqatd.roles.trainer import TrainerRole
from distqatd.swarm import records as r
from distqatd.wire.payload import Message
from tests.support.contexts import World
from tests.support.inline_executor import InlineExecutor
from tests.support.pipelines import Pipeline, batch, train_plain

LEASE = 4


class Data:
    """Batches by number; those in `broken` have no finite loss. `newest` was asked for last."""

    def __init__(self):
        self.broken = set()
        self.episodes = None
        self.newest = -1

    def batch(self, number):
        self.newest = number
        made = batch(number)
        if number not in self.broken:
            return made
        return Batch((made.inputs[0] * float("nan"),), made.targets, made.num_samples)

    def validation_batches(self):
        yield batch(1000)
        yield batch(1001)

    def trial(self):
        return self.episodes


class Episodes:
    """A trial of two episodes and three steps, whose return is the number of outputs seen."""

    def __init__(self):
        self.seen = []

    def inputs(self):
        return batch(0).inputs if len(self.seen) < 3 else None

    def act(self, outputs):
        self.seen.append(outputs[0].shape)

    def sums(self):
        return {"return": float(len(self.seen)), "episodes": 2.0}


class Client:
    """Lends batches 0 to `total` - 1 over one route, and keeps the reports."""

    def __init__(self, world, total):
        self.total, self.world = total, world
        self.reports = []
        self.forgotten = []
        self.on_lost = lambda: None
        self.failing = 0
        self.fence = self.session = self.next = 0
        self.done = IntervalSet()
        self.route = world.pipeline.route
        self.rpc = world.net.peer("client")
        self.rpc.serve(SYNC, self.sync)

    async def sync(self, _, message):
        report = Report.read(message.body)
        self.reports.append(report)
        self.forgotten.append(len(self.done) - self._known(report))
        if self.failing:
            self.failing -= 1
            raise SwarmError("not now")
        if report.lost:
            self.on_lost()
        for held in report.held:
            self.done = self.done.add(held.first, held.next)
        if len(self.done) >= self.total:
            return Message(Grant(1, 0, 0, 0, (), is_over=True, reason="done").body())
        fence = first = end = 0
        if report.wants_lease and self.next < self.total:
            first, end = self.next, min(self.next + LEASE, self.total)
            self.next = end
            self.fence += 1
            fence = self.fence
        self.session += 1
        return Message(
            Grant(1, fence, first, end, self.route, False, "", session=self.session).body()
        )

    def _known(self, report):
        """Return how many of the batches that are done are told again by a report."""
        held = IntervalSet.from_pairs((held.first, held.next) for held in report.held)
        return self.done.overlap(held)


class TrainerWorld(World):
    """A trainer `trainer` with two real experts, and a client."""

    def __init__(self, total=8, data=None):
        super().__init__(Config(data=data or DataConfig()))
        self.pipeline = Pipeline("front", "back", data=data)
        self.net = self.pipeline.net
        self.config = self.config.model_copy(
            update={"diloco": self.pipeline.diloco, "model_pipeline": self.pipeline.model}
        )
        self.client = Client(self, total)
        self.data = Data()
        self.total = total

    @asynccontextmanager
    async def running(self):
        async with Supervisor("test", seeded_rng("tasks")) as tasks:
            self.ctx = self.context("trainer", tasks, ("trainer",))
            self.trainer = TrainerRole(self.ctx, OwnBatches(self.data, InlineExecutor(0.01)), None)
            tasks.spawn(self.trainer.run(), name="trainer")
            yield self

    async def ask(self, method, **body):
        return await self.client.rpc.call("trainer", method, Message(body), timeout_s=5)

    async def start(self):
        await self.ask(START, pipeline=0, term=1)

    async def train(self):
        await self.start()
        while self.trainer.jobs:  # noqa: ASYNC110  on virtual time
            await asyncio.sleep(0.05)

    def assert_trained(self, numbers):
        _, plain = train_plain(numbers)
        for name, tensor in self.pipeline.state().items():
            assert torch.allclose(tensor, plain[name], atol=1e-6), name

    def records(self):
        found = self.board.records.items()
        return {slot[2]: r.TrainerRecord.parse(s.value) for slot, s in found}
