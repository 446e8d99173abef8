"""The roles of one daemon: started in the order monitor, client, expert, trainer.

What needs torch is imported only when a role that computes starts.
"""

import asyncio
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from distqatd.averaging.serving import StateServer
from distqatd.base.events import EventLog
from distqatd.daemon.data_host import DataHost
from distqatd.daemon.options import Options
from distqatd.daemon.seams import Seams
from distqatd.roles.client import ClientRole
from distqatd.roles.context import Context
from distqatd.roles.data_calls import Job, meeting_place, wants_server
from distqatd.roles.mirror import MirrorRole
from distqatd.roles.monitor import MetricsSink, MonitorRole, NoSink
from distqatd.roles.wandb_sink import WandbSink

if TYPE_CHECKING:  # these import torch, which monitors and clients never load
    from distqatd.averaging.averager import Averager
    from distqatd.averaging.phases import Waiting
    from distqatd.averaging.records import RoundRecord
    from distqatd.daemon.compute_roles import Device
    from distqatd.roles.expert import ExpertRole
    from distqatd.roles.trainer import TrainerRole


class Crew:
    """Starts this daemon's roles and holds them, with the device that they share.

    Attributes:
        client: the client role, once it was started.
        monitor: the monitor role, once it was started.
        experts: the expert roles, in the order of their serial numbers.
        trainer: the trainer role; a client starts one when no peer has it.
        mirror: the param mirror, once it was opened; beside a monitor or client that enables it.
    """

    def __init__(self, options: Options, seams: Seams, events: EventLog) -> None:
        self._options = options
        self._seams = seams
        self._events = events
        self.client: ClientRole | None = None
        self.monitor: MonitorRole | None = None
        self.experts: list[ExpertRole] = []
        self.trainer: TrainerRole | None = None
        self.mirror: MirrorRole | None = None
        self._device: Device | None = None
        self._sink: WandbSink | None = None
        self._averager: Averager | None = None
        self._data_host: DataHost | None = None

    async def open_mirror(self, context: Context) -> None:
        """Open the param mirror, if this daemon has one, before others learn of the run from us.

        Raises:
            ConfigError: the folder holds checkpoints that this daemon was not told to resume.
            CheckpointError: the folder cannot be used.
        """
        config = context.config.param_mirror
        is_wanted = config.enable or config.resume
        if not is_wanted or not {"monitor", "client"} & set(self._options.roles):
            return
        root = config.checkpoint_dir or logs_dir(self._options, context.run_id) / "checkpoints"
        server = StateServer(context.rpc, num_slots=context.config.network.upload_slots)
        self.mirror = MirrorRole(context, root, server, self._seams.in_thread)
        await self.mirror.open()

    async def start(self, context: Context) -> None:
        """Start every role that this daemon was given."""
        if self.mirror is not None:
            context.tasks.keep(self.mirror.run, name="mirror")
        starters = {
            "monitor": self._start_monitor,
            "client": self._start_client,
            "expert": self._start_experts,
            "trainer": self._start_trainer,
        }
        for role in self._options.roles:
            await starters[role](context)

    async def load_compute(self) -> None:
        """Import torch beside the loop: it takes seconds, and peers must not think we are dead."""
        await self._seams.in_thread(lambda: import_module("distqatd.daemon.compute_roles"))

    @property
    def device_name(self) -> str | None:
        """Return the device of this daemon's experts and trainer, once it is open."""
        return self._device.name if self._device is not None else None

    def round_records(self) -> "tuple[RoundRecord, ...]":
        """Return the rounds that experts of this daemon took part in, oldest first."""
        return self._averager.rounds if self._averager is not None else ()

    def round_waits(self) -> "tuple[Waiting, ...]":
        """Return the rounds that experts of this daemon lead or are in now."""
        return self._averager.waiting() if self._averager is not None else ()

    def close(self) -> None:
        """Let go of the device, of W&B and of the folder of checkpoints."""
        if self.mirror is not None:
            self.mirror.close()
        if self._sink is not None:
            self._sink.close()
        if self._device is not None:
            self._device.executor.close()

    async def _start_monitor(self, context: Context) -> None:
        def open_sink() -> MetricsSink:
            return self._open_sink(context)

        file = logs_dir(self._options, context.run_id) / "initial_peers.txt"
        self.monitor = MonitorRole(context, file, open_sink)
        context.tasks.keep(self.monitor.run, name="monitor")

    async def _start_client(self, context: Context) -> None:
        async def start_trainer() -> None:
            await self._start_trainer(context)

        self._host_data(context)
        self.client = ClientRole(context, start_trainer)
        context.tasks.keep(self.client.run, name="client")

    async def _start_experts(self, context: Context) -> None:
        await self.load_compute()
        from distqatd.daemon import compute_roles

        model = context.config.model_pipeline
        await self._seams.in_thread(lambda: compute_roles.stage_needs(model))  # kept for below
        device = self._open_device(context)
        parts = compute_roles.build_parts(
            context,
            self._seams,
            device,
            knows_weights=self._was_named_here(context, "model_pipeline.weights"),
        )
        self._averager = parts.averager
        if self.mirror is not None:
            self.mirror.shelf.serve_through(parts.donors)
        context.tasks.keep(parts.averager.run, name="averager")
        for expert in compute_roles.build_experts(context, parts):
            self.experts.append(expert)
            context.tasks.keep(expert.run, name=f"expert.{len(self.experts)}")

    async def _start_trainer(self, context: Context) -> None:
        if self.trainer is not None:
            return
        await self.load_compute()
        from distqatd.daemon import compute_roles

        if context.config.data.transform is not None:
            self._host_data(context)  # it must not run in this daemon
        self.trainer = compute_roles.build_trainer(
            context,
            self._open_device(context),
            knows_data=self._was_named_here(context, "data.dataset_name"),
            may_be_served=self._seams.data_folder is not None,
        )
        context.tasks.keep(self.trainer.run, name="trainer")

    def _host_data(self, context: Context) -> None:
        """Keep a data server at hand for the trainers of this machine, if it is worth it."""
        folder = self._seams.data_folder
        if folder is None or self._data_host is not None:
            return
        config = context.config
        is_ours = self._was_named_here(context, "data.dataset_name")
        decision = wants_server(config, is_ours=is_ours)
        context.note("data", "host", decision.reason)
        if decision.value:
            batch_size = config.diloco.batch_size
            job = Job(config.data, config.seed, batch_size, config.data_server, str(folder))
            self._data_host = DataHost(meeting_place(config), job, self._events, self._seams.rng)
            context.tasks.keep(self._data_host.run, name="data")

    def _was_named_here(self, context: Context, path: str) -> bool:
        """Return whether this machine gave a value: the swarm alone must not name what it reads."""
        return not context.config.network.join or path in self._options.origins

    def _open_device(self, context: Context) -> "Device":
        """Return the device of this daemon's experts and trainer, opened once."""
        from distqatd.daemon import compute_roles

        if self._device is None:
            self._device = compute_roles.open_device(context, self._seams)
        return self._device

    def _open_sink(self, context: Context) -> MetricsSink:
        config = context.config
        if config.wandb_project is None or config.telemetry.wandb_mode == "disabled":
            return NoSink()

        def on_failure(error: str) -> None:
            self._events.emit("wandb.failed", degraded=True, error=error)

        loop = asyncio.get_running_loop()
        self._sink = WandbSink(
            config.wandb_project,
            config.experiment_prefix,
            config.telemetry.wandb_mode,
            logs_dir(self._options, context.run_id),
            config.model_dump(mode="json"),
            lambda error: _post(loop, on_failure, error),
        )
        self._events.emit("wandb.opened", mode=config.telemetry.wandb_mode)
        return self._sink


def logs_dir(options: Options, run_id: str) -> Path:
    """Return the folder of the run's logs and `initial_peers.txt`."""
    if options.log_file is not None:
        return options.log_file.parent
    return Path("logs") / run_id


def _post(loop: asyncio.AbstractEventLoop, callback: Callable[[str], None], text: str) -> None:
    """Call back on the loop from another thread; a closed loop has nobody to tell."""
    try:
        loop.call_soon_threadsafe(callback, text)
    except RuntimeError:
        return
