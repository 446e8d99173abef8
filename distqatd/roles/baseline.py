"""The same run, unsplit, in one process, as plain torch: the oracle the swarm is compared with.

    python -m distqatd.roles.baseline --config digits --json FILE

One replica; inner and outer optimizers are `torch.optim`'s own, and nothing of the swarm's code
takes part but the model, the data and the configuration. Progress goes to standard output, one
JSON object a line.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from distqatd.base.errors import ConfigError, DistqatError
from distqatd.compute.device import pick_device
from distqatd.compute.precision import Precision, in_float32
from distqatd.compute.stages import build_whole_model
from distqatd.compute.weights import Weights
from distqatd.config.layers import Override
from distqatd.config.load import load
from distqatd.config.schedules import RunSchedule
from distqatd.config.sections import Config
from distqatd.data.batches import Batch, Dataset, open_dataset
from distqatd.data.tasks import Task, task
from distqatd.data.trial import Trial
from distqatd.models.units import Stage
from distqatd.optim.digest import digest
from distqatd.optim.inner import make_inner_optimizer
from distqatd.roles.baseline_outer import Outer, parts_of


@dataclass(frozen=True, slots=True)
class BaselineStep:
    """One inner step: its number from 1, the mean loss, the outer step it ended (or 0)."""

    step: int
    loss: float
    outer_step: int


def whole_model(config: Config, device: torch.device) -> Stage:
    """Return the unsplit model: the units of all stages in order, quantised as those are."""
    named = config.model_pipeline.weights
    path = config.compute.weights or (Path(named).expanduser() if named else None)
    return build_whole_model(config, device, Weights(path) if named and path else None)


def _precision(config: Config, device: torch.device) -> Precision:
    name = config.data.precision
    if name == "fp16-mixed":
        raise ConfigError("the baseline keeps no loss scale: set data.precision to fp32 or bf16")
    return Precision(name, device.type)


def accumulate(
    model: nn.Module, criterion: Task, batch: Batch, num_microbatches: int, precision: Precision
) -> float:
    """Add the batch's gradient to the model's, microbatch by microbatch; return the mean loss."""
    total = 0.0
    for part in batch.split(num_microbatches):
        with precision.autocast():
            outputs = model(*part.inputs)
        loss = criterion.loss(in_float32(outputs), part.targets)
        (loss * (part.num_samples / batch.num_samples)).backward()  # type: ignore[no-untyped-call]
        total += loss.item() * part.num_samples / batch.num_samples
    return total


def train(config: Config, model: Stage, dataset: Dataset) -> Iterator[BaselineStep]:
    """Run the whole schedule on `model`, one batch an inner step, yielding after each.

    Raises:
        ConfigError: in fp16-mixed.
    """
    diloco = config.diloco
    criterion = task(config.data.task_type)
    device = next(model.parameters()).device
    precision = _precision(config, device)
    schedule = RunSchedule(diloco)
    inner = make_inner_optimizer(model.parameters(), diloco.inner_optim)
    rates = [group["lr"] for group in inner.param_groups]
    parts = parts_of(model, config.model_pipeline.pipeline, diloco.fragments)
    outer = Outer(model, diloco.outer_optim, parts)
    model.train()
    step = 0
    for outer_step in range(diloco.outer_steps):
        num_steps = schedule.inner_steps(outer_step)
        for done in range(num_steps):
            batch = _to(dataset.batch(step), device)
            loss = accumulate(model, criterion, batch, diloco.num_microbatches, precision)
            if diloco.inner_optim.max_grad_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), diloco.inner_optim.max_grad_norm)
            for group, rate in zip(inner.param_groups, rates, strict=True):
                group["lr"] = rate * schedule.lr_factor(outer_step, done)
            inner.step()
            inner.zero_grad(set_to_none=True)
            step += 1
            is_last = done == num_steps - 1
            if outer_step and done + 1 == schedule.overlap(outer_step - 1):
                outer.adopt(schedule.fragment(outer_step - 1), schedule.mix_alpha)
            if is_last:
                _outer_step(outer, schedule, outer_step)
            yield BaselineStep(step, loss, outer_step + 1 if is_last else 0)


def _outer_step(outer: Outer, schedule: RunSchedule, outer_step: int) -> None:
    fragment = schedule.fragment(outer_step)
    outer.step(schedule.outer_rule(outer_step), fragment, schedule.outer_count(outer_step))
    if not schedule.overlap(outer_step):
        outer.adopt(fragment, 0.0)


@torch.no_grad()
def evaluate(config: Config, model: Stage, dataset: Dataset) -> dict[str, float | None]:
    """Return loss and accuracy on the validation samples, and the mean return of a policy."""
    criterion = task(config.data.task_type)
    device = next(model.parameters()).device
    precision = _precision(config, device)
    model.eval()
    sums: dict[str, float] = {}
    for batch in dataset.validation_batches():
        moved = _to(batch, device)
        with precision.autocast():
            outputs = model(*moved.inputs)
        for name, value in criterion.metrics(in_float32(outputs), moved.targets).items():
            sums[name] = sums.get(name, 0.0) + value
    earned = _play(model, dataset.trial(), device)
    model.train()
    accuracy = sums["correct"] / sums["count"] if "correct" in sums else None
    loss = sums["loss"] / sums["count"]
    return {"loss": loss, "accuracy": accuracy, "mean_return": earned}


def _play(model: Stage, trial: Trial | None, device: torch.device) -> float | None:
    """Return what the model earns in an episode, where the data set has an environment."""
    if trial is None:
        return None
    while (inputs := trial.inputs()) is not None:
        trial.act(model(*(tensor.to(device) for tensor in inputs)))
    sums = trial.sums()
    return sums["return"] / sums["episodes"]


def flat_state(model: Stage) -> Tensor:
    """Return all parameters and float buffers as one float32 vector, in name order."""
    state = model.global_state_dict()
    tensors = [state[name].reshape(-1) for name in sorted(state) if state[name].is_floating_point()]
    return torch.cat(tensors).float().cpu()


def run(config: Config, started: float) -> dict[str, object]:
    """Train and evaluate, printing progress; return the report."""
    if config.compute.num_threads:
        torch.set_num_threads(config.compute.num_threads)
    device = pick_device(config.device).value
    dataset = open_dataset(config.data, config.seed, config.diloco.batch_size)
    model = whole_model(config, device)
    first_step_s = 0.0
    began = time.perf_counter()
    num_steps = outer_steps = 0
    for done in train(config, model, dataset):
        first_step_s = first_step_s or time.perf_counter() - started
        num_steps, outer_steps = done.step, max(outer_steps, done.outer_step)
        if done.outer_step or done.step == 1:
            _say({"step": done.step, "outer_step": outer_steps, "loss": done.loss})
    train_s = time.perf_counter() - began
    return {
        "eval": evaluate(config, model, dataset),
        "outer_steps": outer_steps,
        "inner_steps": num_steps,
        "samples_per_s": num_steps * config.diloco.batch_size / train_s,
        "wall_s": time.perf_counter() - started,
        "time_to_first_step_s": first_step_s,
        "anchor_digest": digest(flat_state(model)),
    }


def _to(batch: Batch, device: torch.device) -> Batch:
    if device.type == "cpu":
        return batch
    return Batch(
        tuple(tensor.to(device) for tensor in batch.inputs),
        tuple(tensor.to(device) for tensor in batch.targets),
        batch.num_samples,
    )


def _say(line: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run from the command line; return the exit code."""
    started = time.perf_counter()
    parser = argparse.ArgumentParser(prog="python -m distqatd.roles.baseline")
    parser.add_argument("--config", default="digits", help="preset or file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, help="write the report here")
    arguments = parser.parse_args()
    try:
        pairs = [text.partition("=") for text in arguments.set]
        overrides = [Override(key, value, f"--set {key}") for key, _, value in pairs]
        loaded = load((arguments.config,), env=os.environ, overrides=overrides)
        report = run(loaded.config, started)
    except DistqatError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    _say(report)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
