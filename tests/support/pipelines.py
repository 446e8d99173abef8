"""A pipeline of real experts over an in-memory Rpc, and the unsplit model beside it."""

import torch

from distqatd.base.events import EventLog
from distqatd.compute.expert import Expert
from distqatd.compute.precision import Precision
from distqatd.config.sections import (
    DataConfig,
    DilocoConfig,
    InnerOptimConfig,
    ModelPipelineConfig,
    OuterOptimConfig,
    QuantConfig,
    StageConfig,
)
from distqatd.data.batches import Batch
from distqatd.data.tasks import task
from distqatd.models.registry import build_stage
from distqatd.pipeline.desk import LossDesk
from distqatd.pipeline.host import StageHost
from distqatd.pipeline.hosted import HostedExpert
from distqatd.pipeline.links import make_links
from distqatd.pipeline.messages import SessionId
from distqatd.pipeline.runner import RouteRunner
from distqatd.pipeline.scaling import LossScaling
from distqatd.swarm.routes import Hop
from tests.support.inline_executor import InlineExecutor
from tests.support.memory_rpc import MemoryNetwork

SIZES = [12, 16, 16, 4]


class FixedClock:
    def now(self):
        return 0.0


def stages(*names):
    return tuple(StageConfig(model_name=f"mlp.{name}", sizes=SIZES) for name in names)


def batch(number, size=8):
    generator = torch.Generator().manual_seed(number)
    inputs = torch.randn((size, SIZES[0]), generator=generator)
    return Batch((inputs,), (torch.randint(0, 4, (size,), generator=generator),), size)


class Pipeline:
    """Experts on peers p0, p1, ... and a trainer on peer `trainer`."""

    def __init__(
        self,
        *names,
        num_microbatches=1,
        loss_at="last_stage",
        inner_steps=1000,
        executor=InlineExecutor,
        max_in_flight=32,
        quant=None,
        data=None,
    ):
        self.data = data or DataConfig()
        self.scaling = LossScaling(self.data)
        self.net = MemoryNetwork()
        self.executor = executor
        self.max_in_flight = max_in_flight
        self.config = stages(*names)
        self.links = make_links(quant or QuantConfig(), names)
        self.events = EventLog(FixedClock())
        self.diloco = DilocoConfig(
            inner_optim=InnerOptimConfig(type="adam", adam_lr=1e-2),
            num_microbatches=num_microbatches,
            inner_steps=inner_steps,
            averaging_timeout=5.0,
        )
        self.model = ModelPipelineConfig(
            pipeline=self.config, loss_at=loss_at, forward_timeout=5.0, backward_timeout=5.0
        )
        self.hosted = {}
        self.route = tuple(self.host(i) for i in range(len(names)))
        self.rpc = self.net.peer("trainer", ("trainer",))
        criterion = task(DataConfig().task_type)
        self.desk = (
            LossDesk(
                self.rpc, InlineExecutor(), criterion, 1 << 30, self.links.behind(len(names) - 1)
            )
            if loss_at == "trainer"
            else None
        )

    def host(self, position, replica=0, boot_epoch=1):
        """Put a fresh expert of a stage on a peer of its own; return its hop."""
        config = self.config[position]
        hop = Hop(f"{config.stage}.0.{replica}.0", f"p{position}.{replica}", boot_epoch)
        rpc = self.net.peer(hop.peer_id)
        expert = Expert(
            hop.uid,
            build_stage(config, 0, "cpu", self.config),
            self.diloco.inner_optim,
            OuterOptimConfig(),
            task=task("cv"),
            is_first=position == 0,
            precision=Precision(self.data.precision),
        )
        hosted = HostedExpert(
            hop.uid,
            expert,
            self.executor(),
            rpc,
            self.diloco,
            self.model,
            task("cv"),
            self.max_in_flight,
            self.links,
        )
        StageHost(rpc, 1 << 30, hop.boot_epoch).attach(hosted)
        self.hosted[hop.uid] = hosted
        return hop

    def restart(self, hop, boot_epoch=2):
        """Let the daemon of a hop die and start again: same peer, same uid, nothing remembered."""
        position = [other.uid for other in self.route].index(hop.uid)
        self.net.peer(hop.peer_id).forget()
        return self.host(position, boot_epoch=boot_epoch)

    def runner(self, route=None, fence=1, serial=1, rpc=None):
        runner = RouteRunner(
            rpc or self.rpc,
            route or self.route,
            SessionId(fence, serial),
            self.diloco,
            self.model,
            self.desk,
            self.events,
            seed=0,
        )
        runner.scaling = self.scaling
        return runner

    def state(self, route=None):
        found = {}
        for hop in route or self.route:
            found |= self.hosted[hop.uid].expert.stage.global_state_dict()
        return found


def train_plain(numbers, num_microbatches=1):
    """Train the unsplit model with plain torch; return its losses and its state."""
    model = build_stage(stages("full")[0], 0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for number in numbers:
        whole, total = batch(number), 0.0
        for part in whole.split(num_microbatches):
            loss = torch.nn.functional.cross_entropy(model(*part.inputs)[0], part.targets[0])
            share = part.num_samples / whole.num_samples
            (loss * share).backward()
            total += loss.item() * share
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses, model.global_state_dict()
