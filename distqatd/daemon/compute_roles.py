"""Wiring of the roles that need torch; imported only by daemons that have one of them."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from distqatd.averaging.averager import Averager
from distqatd.averaging.state import Donors
from distqatd.base.errors import ConfigError
from distqatd.compute.device import pick_device
from distqatd.compute.executor import Executor
from distqatd.compute.memory import keep_freed_memory, training_bytes
from distqatd.compute.precision import SLOW, check_precision
from distqatd.compute.stages import check_quant
from distqatd.compute.weights import Weights, check_weights
from distqatd.config.schedules import RunSchedule
from distqatd.config.sections import Config, DataConfig, ModelPipelineConfig
from distqatd.daemon.seams import Seams
from distqatd.data.batches import Finish, open_dataset
from distqatd.data.tasks import task
from distqatd.models.schema import check_samples, stage_parameters
from distqatd.optim.inner import check_inner_optimizer
from distqatd.pipeline.desk import LossDesk
from distqatd.pipeline.host import StageHost
from distqatd.pipeline.links import make_links
from distqatd.roles.batches import Batches, LaterBatches, OwnBatches
from distqatd.roles.claim import Room
from distqatd.roles.context import Context
from distqatd.roles.data_calls import meeting_place, named_data, wants_server
from distqatd.roles.data_feed import ServedBatches
from distqatd.roles.expert import ExpertParts, ExpertRole
from distqatd.roles.moves import Moves
from distqatd.roles.trainer import TrainerRole


@dataclass(frozen=True, slots=True)
class Device:
    """A compute device and the one thread that uses it."""

    name: str
    executor: Executor


def open_device(context: Context, seams: Seams) -> Device:
    """Pick the device, say which, and open its executor.

    Raises:
        DeviceUnavailable: it is not there, or cannot compute in the run's precision.
    """
    keep_freed_memory()
    decision = pick_device(context.config.device)
    precision = check_precision(context.config.data.precision, decision.value)
    if precision.value >= SLOW:
        context.events.emit("precision.slow", degraded=True, reason=precision.reason)
    context.events.emit("device.picked", device=str(decision.value), reason=decision.reason)
    executor = seams.make_executor(str(decision.value), context.config.compute.num_threads)
    return Device(str(decision.value), executor)


def open_weights(config: Config, *, is_ours: bool) -> Weights | None:
    """Open what the run starts from, if it starts from weights and this machine has them.

    A path that only the swarm names could be any file of this machine, whose contents would then
    leave it as a stage's state.

    Args:
        config: of the run and this machine.
        is_ours: whether `model_pipeline.weights` was given on this machine.

    Raises:
        CheckpointError: the path is not that of weights, or they are not of the run's model.
    """
    named = config.model_pipeline.weights
    path = config.compute.weights or (Path(named).expanduser() if named and is_ours else None)
    if named is None or path is None:
        return None
    weights = Weights(path)
    check_weights(weights, config.model_pipeline)
    return weights


def build_parts(
    context: Context, seams: Seams, device: Device, *, knows_weights: bool
) -> ExpertParts:
    """Return what this daemon's experts share.

    Args:
        context: this daemon.
        seams: the outside world.
        device: where the experts compute.
        knows_weights: whether `model_pipeline.weights` was named on this machine.

    Raises:
        CheckpointError: the weights cannot be read or are not of the run's model.
        ConfigError: torch has no such inner optimizer, or it does not take its arguments; or
            there is no such quantizer, or a rule of the quant section is for nothing.
        UnknownModel: the run's model is not on this machine; model code never travels.
    """
    config = context.config
    check_samples(config.model_pipeline.pipeline)
    check_inner_optimizer(config.diloco.inner_optim)
    check_quant(config)
    momentum = RunSchedule(config.diloco).momentum_fits()
    if not momentum.value:
        context.events.emit("momentum.high", degraded=True, reason=momentum.reason)
    return ExpertParts(
        host=StageHost(context.rpc, config.network.bytes_in_flight, context.boot_epoch),
        averager=Averager(
            context.rpc,
            device.executor,
            config.diloco,
            context.clock,
            context.rng,
            context.events,
            seams.ledger_disk,
            seams.meter,
        ),
        donors=Donors(context.rpc, device.executor, num_slots=config.network.upload_slots),
        executor=device.executor,
        task=task(config.data.task_type),
        device=device.name,
        timer=seams.timer,
        claims=asyncio.Lock(),
        room=Room(lambda: seams.free_bytes(device.name), stage_needs(config.model_pipeline)),
        weights=open_weights(config, is_ours=knows_weights),
    )


def stage_needs(config: ModelPipelineConfig) -> dict[str, int]:
    """Return the bytes that an expert of each stage takes at least, by the stage's name."""
    return dict(_needs(config.model_dump_json()))


@cache
def _needs(config_json: str) -> Mapping[str, int]:
    """Build the model without memory: a daemon does it once, and keeps what it found."""
    stages = ModelPipelineConfig.model_validate_json(config_json).pipeline
    counts = zip(stages, stage_parameters(stages), strict=True)
    return {stage.stage: training_bytes(count) for stage, count in counts}


def build_experts(context: Context, parts: ExpertParts) -> list[ExpertRole]:
    """Return this daemon's expert roles, which the client's duty may move from now on."""
    num_experts = context.config.compute.num_experts
    experts = [ExpertRole(context, parts, serial) for serial in range(num_experts)]
    Moves(context, experts)
    return experts


def check_data_source(data: DataConfig, *, is_ours: bool) -> None:
    """Check that a run may have us read or download what its data section names.

    A path that only the swarm names could be any file of this machine, whose contents would then
    leave it as activations; and what is downloaded here is its owner's to decide.

    Raises:
        ConfigError: it is no data set that comes with DistQat, and was not given on this machine.
    """
    named = named_data(data)
    if named and not is_ours:
        raise ConfigError(
            f"this swarm's run reads {' and '.join(map(repr, named))}, which was not given on this "
            f"machine\nfix: if this machine may read or download it, say so: --set "
            f"data.dataset_name={data.dataset_name}; or join without the trainer role"
        )


def open_batches(
    context: Context, device: Device, *, knows_data: bool, may_be_served: bool
) -> Batches:
    """Return where the trainer's batches come from.

    Args:
        context: this daemon.
        device: where batches are finished.
        knows_data: whether the data set was named on this machine, not by the swarm alone.
        may_be_served: whether this machine can have a data server.

    Raises:
        ConfigError: the data set cannot be opened, or may not be.
    """
    config = context.config
    check_data_source(config.data, is_ours=knows_data)
    data, size = config.data, config.diloco.batch_size
    open_data = partial(open_dataset, data, config.seed, size)
    decision = wants_server(config, is_ours=knows_data)
    if not decision.value or not may_be_served:
        if data.transform is not None:
            raise ConfigError(
                f"data.transform {data.transform!r} runs in a data server, and there is none: "
                f"{decision.reason}"
            )
        return OwnBatches(open_data(), device.executor)
    context.note("data", "server", decision.reason)
    return ServedBatches(
        meeting_place(config),
        Finish.of(data, config.seed, size),
        device.executor,
        LaterBatches(open_data, device.executor) if data.transform is None else None,
        context.events,
        context.rng,
        plays=data.task_type == "rl",
    )


def build_trainer(
    context: Context, device: Device, *, knows_data: bool, may_be_served: bool = False
) -> TrainerRole:
    """Return this daemon's trainer role; see `open_batches`.

    Raises:
        ConfigError: the data set cannot be opened, or may not be.
    """
    config = context.config
    batches = open_batches(context, device, knows_data=knows_data, may_be_served=may_be_served)
    desk = None
    if config.model_pipeline.loss_at == "trainer":
        last = len(context.stage_names) - 1
        desk = LossDesk(
            context.rpc,
            device.executor,
            task(config.data.task_type),
            config.network.bytes_in_flight,
            make_links(config.quant, context.stage_names).behind(last),
        )
    return TrainerRole(context, batches, desk)
