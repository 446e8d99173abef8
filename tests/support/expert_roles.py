"""Expert roles on fakes: a shared board instead of a DHT, calls in memory, tiny real stages."""

import asyncio

from distqatd.averaging.averager import Averager
from distqatd.averaging.state import Donors
from distqatd.base.rng import seeded_rng
from distqatd.base.tasks import Supervisor
from distqatd.config.sections import Config, DilocoConfig, InnerOptimConfig, ModelPipelineConfig
from distqatd.data.tasks import task
from distqatd.pipeline.host import StageHost
from distqatd.roles.claim import Room
from distqatd.roles.expert import ExpertParts, ExpertRole
from distqatd.roles.moves import Moves
from tests.support.contexts import World
from tests.support.inline_executor import InlineExecutor
from tests.support.memory_disk import MemoryDisk
from tests.support.pipelines import batch, stages


class ExpertWorld(World):
    """Peers with one expert each, running in `tasks`."""

    def __init__(self, *names, weights=None, rooms=None, **config):
        pipeline = ModelPipelineConfig(pipeline=stages(*names), weights=weights)
        inner = InnerOptimConfig(type="sgd", sgd_lr=0.1)
        diloco = DilocoConfig(inner_optim=inner, averaging_timeout=10.0, inner_steps=4)
        super().__init__(Config(diloco=diloco, model_pipeline=pipeline, **config))
        self.tasks = Supervisor("test", seeded_rng("tasks"))
        self.roles = {}
        self.contexts = {}
        self.weights = {}
        self.rooms = rooms or {}

    async def __aenter__(self):
        await self.tasks.__aenter__()
        return self

    async def __aexit__(self, *error):
        await self.tasks.__aexit__(*error)

    def start(self, *peers):
        """Start an expert on each peer; it claims, loads and serves by itself."""
        for peer in peers:
            ctx = self.contexts[peer] = self.context(peer, self.tasks, ("expert",))
            executor = InlineExecutor(0.001)
            parts = ExpertParts(
                host=StageHost(ctx.rpc, 1 << 30, ctx.boot_epoch),
                averager=Averager(
                    ctx.rpc,
                    executor,
                    self.config.diloco,
                    ctx.clock,
                    ctx.rng,
                    ctx.events,
                    MemoryDisk(),
                ),
                donors=Donors(ctx.rpc, executor),
                executor=executor,
                task=task("cv"),
                device="cpu",
                timer=asyncio.get_running_loop().time,
                claims=asyncio.Lock(),
                room=self.rooms.get(peer, Room()),
                weights=self.weights.get(peer),
            )
            role = self.roles[peer] = ExpertRole(ctx, parts, 0)
            Moves(ctx, [role])
            look = ctx.directory.run
            self.tasks.keep(lambda look=look: look(lambda: 10.0), name=f"directory.{peer}")
            self.tasks.keep(parts.averager.run, name=f"averager.{peer}")
            role.task = self.tasks.keep(role.run, name=f"expert.{peer}")

    async def serving(self, *peers, within_s=60):
        """Wait until the experts of these peers serve; return their uids."""
        async with asyncio.timeout(within_s):
            while not all(self.roles[peer].hosted for peer in peers):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        return [self.roles[peer].hosted.uid for peer in peers]

    def expert(self, peer):
        return self.roles[peer].hosted.expert

    def train(self, peer, number):
        """Take one inner step on an expert of a one-stage run."""
        expert, made = self.expert(peer), batch(number)
        expert.loss_backward(0, made.inputs, made.targets, 1.0, 0)
        expert.apply(made.num_samples)

    def advance(self, peer, times=1):
        """Take outer steps on an expert as if it had been alone."""
        for _ in range(times):
            self.train(peer, 7)
            given = self.expert(peer).contribution()
            self.expert(peer).commit_outer(given.pseudo_gradient, given.outer_step + 1, {})
        self.publish(peer)

    def publish(self, peer):
        self.roles[peer]._life.publish()

    def round(self, *peers):
        """Have experts take part in an outer step."""
        for peer in peers:
            self.roles[peer].hosted.round_due.set()
