"""Which daemons make up a local swarm, and how each one is started."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distqatctl.config_commands import DISTQATD
from distqatctl.errors import CommandFailed

_CONFIG_TIMEOUT_S = 60.0
_KEEP_EVERY_S = 5


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What `local` needs to know of the configuration.

    Attributes:
        resume: it continues an earlier run.
        keeps: it keeps checkpoints.
    """

    prefix: str
    stages: tuple[str, ...]
    outer_steps: int
    inner_steps: int
    resume: bool = False
    keeps: bool = False


@dataclass(frozen=True, slots=True)
class DaemonPlan:
    """One daemon: `name` is its state folder and log. Experts choose their stages themselves."""

    name: str
    role: str


def checkpoint_settings(run_dir: Path | None, *, keep: bool, resume: bool) -> list[str]:
    """Return the values that make the run keep checkpoints or go on from them, as for `--set`.

    They are kept beside the logs, where a later run finds them, unless `run_dir` is given.
    """
    settings = []
    if keep or resume:
        settings += ["param_mirror.enable=true", f"param_mirror.refresh_every={_KEEP_EVERY_S}"]
    if run_dir is not None:
        settings.append(f"param_mirror.checkpoint_dir={run_dir.resolve() / 'checkpoints'}")
    if resume:
        settings.append("param_mirror.resume=true")
    return settings


def read_plan(config_arguments: Sequence[str], program: Sequence[str] = DISTQATD) -> RunPlan:
    """Ask `distqatd` what it makes of the configuration.

    Raises:
        CommandFailed: the configuration cannot be used; carries distqatd's words and exit code.
    """
    command = [*program, "--show-config", "--json", *config_arguments]
    finished = subprocess.run(  # noqa: S603  our own program
        command, check=False, capture_output=True, text=True, timeout=_CONFIG_TIMEOUT_S
    )
    if finished.returncode != 0:
        message = finished.stderr.strip().removeprefix("error: ") or "distqatd cannot be started"
        raise CommandFailed(
            message, code=finished.returncode, fix="see: distqatctl config show --origin"
        )
    return plan_of(json.loads(finished.stdout)["values"])


def plan_of(values: Mapping[str, Any]) -> RunPlan:
    """Return the plan that a configuration's values make."""
    stages = [stage["model_name"].split(".")[1] for stage in values["model_pipeline"]["pipeline"]]
    mirror = values.get("param_mirror", {})
    resume = mirror.get("resume", False)
    return RunPlan(
        prefix=values["experiment_prefix"],
        stages=tuple(stages),
        outer_steps=values["diloco"]["outer_steps"],
        inner_steps=values["diloco"]["inner_steps"],
        resume=resume,
        keeps=resume or mirror.get("enable", False),
    )


def daemons(plan: RunPlan, experts_per_stage: int, num_clients: int = 1) -> tuple[DaemonPlan, ...]:
    """Return every daemon in the order of start: the first one is the monitor others join.

    One trainer per pipeline that can be complete at once, and every stage has
    `experts_per_stage` replicas. Of several clients one has the duty, the others stand by.
    """
    num_experts = len(plan.stages) * experts_per_stage
    return (
        DaemonPlan("monitor_0", "monitor"),
        *(DaemonPlan(f"client_{i}", "client") for i in range(num_clients)),
        *(DaemonPlan(f"expert_{i}", "expert") for i in range(num_experts)),
        *(DaemonPlan(f"trainer_{i}", "trainer") for i in range(experts_per_stage)),
    )


def arguments(
    daemon: DaemonPlan, *, state_root: Path, log_dir: Path, join: Sequence[str], parent_fd: int
) -> list[str]:
    """Return the `distqatd` arguments of one daemon, without the configuration's.

    With nobody to `join` it starts the swarm.
    """
    return [
        *("--role", daemon.role),
        *("--state-dir", str(state_root / daemon.name)),
        *("--log-file", str(log_dir / f"{daemon.name}.log")),
        *("--network-secret-file", str(state_root / "swarm.secret")),
        *("--host", "127.0.0.1", "--port", "0", "--api-port", "-1"),
        *("--parent-fd", str(parent_fd)),
        *(part for address in join for part in ("--join", address)),
    ]
