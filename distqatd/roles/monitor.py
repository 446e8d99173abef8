"""The monitor role: seeds the swarm, writes `initial_peers.txt`, watches the fleet, logs to W&B.

Training never waits for it: it only reads the DHT.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from distqatd.roles.context import Context
from distqatd.swarm.view import SwarmView

POLL_S = 2.0


@dataclass(frozen=True, slots=True)
class FleetMetrics:
    """The fleet at one moment; `loss` is the mean over training pipelines, -1 without any.

    Attributes:
        link_bytes: bytes of a step's tensors on the links of its route, mean over pipelines.
        eval_outer_step: of the newest anchor that was evaluated, which `eval_loss` and
            `eval_accuracy` are of; -1 if none was.
    """

    outer_step: int
    inner_steps: int
    loss: float
    samples_per_s: float
    num_samples: int
    alive_peers: int
    serving_experts: int
    pipelines: int
    gaps: int
    link_bytes: float
    eval_outer_step: int = -1
    eval_loss: float = -1.0
    eval_accuracy: float = -1.0


class MetricsSink(Protocol):
    """Where the monitor sends metrics, such as W&B."""

    def log(self, metrics: dict[str, float | int], step: int) -> None:
        """Take one set of metrics; returns at once and never raises."""
        ...


class NoSink:
    """Keeps nothing: the run has no W&B project."""

    def log(self, metrics: dict[str, float | int], step: int) -> None:
        """Drop the metrics."""


def fleet_metrics(view: SwarmView) -> FleetMetrics:
    """Sum a view up."""
    training = [info.record for info in view.trainers if info.is_training]
    losses = [record.loss for record in training if record.loss >= 0]
    serving = [expert for stage in view.stages for expert in stage.serving]
    newest = max(view.leases.values(), key=lambda lease: lease.term, default=None)
    return FleetMetrics(
        outer_step=min((expert.record.outer_step for expert in serving), default=0),
        inner_steps=sum(record.step for record in training),
        loss=sum(losses) / len(losses) if losses else -1.0,
        samples_per_s=sum(record.samples_per_s for record in training),
        num_samples=sum(record.num_samples for record in training),
        alive_peers=len(view.peers),
        serving_experts=len(serving),
        pipelines=len(training),
        gaps=len(view.gaps),
        link_bytes=sum(record.link_bytes for record in training) / max(len(training), 1),
        eval_outer_step=newest.eval_outer_step if newest is not None else -1,
        eval_loss=newest.eval_loss if newest is not None else -1.0,
        eval_accuracy=newest.eval_accuracy if newest is not None else -1.0,
    )


class MonitorRole:
    """Watches the fleet."""

    def __init__(
        self, context: Context, initial_peers_file: Path, open_sink: Callable[[], MetricsSink]
    ) -> None:
        self._context = context
        self._file = initial_peers_file
        self._open_sink = open_sink
        self._sink: MetricsSink | None = None
        self.metrics: FleetMetrics | None = None

    async def run(self) -> None:
        """Write the addresses, then poll until cancelled."""
        self.write_initial_peers()
        while True:
            self.metrics = fleet_metrics(await self._context.directory.next_view())
            self._report(self.metrics)

    def write_initial_peers(self) -> None:
        """Write this daemon's addresses, comma separated, for `--join @FILE`."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        part = self._file.with_suffix(".part")
        part.write_text(",".join(self._context.addresses()) + "\n")
        part.replace(self._file)
        self._context.events.emit("monitor.initial_peers", file=str(self._file))

    def _report(self, metrics: FleetMetrics) -> None:
        if metrics.inner_steps == 0:
            return
        if self._sink is None:
            # Only now: W&B costs memory and a child process, and an idle monitor stays small.
            self._sink = self._open_sink()
        self._sink.log(asdict(metrics), metrics.inner_steps)
