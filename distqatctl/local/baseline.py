"""`distqatctl local --baseline`: the same configuration unsplit in one process, as the oracle."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distqatctl import text
from distqatctl.errors import BAD_CONFIG, BUG, CommandFailed
from distqatctl.interrupts import Interrupts
from distqatctl.local.children import MARKER_VARIABLE, describe_exit, environment
from distqatctl.local.display import Display

BASELINE = (sys.executable, "-m", "distqatd.roles.baseline")
"""The command that trains unsplit; it prints a JSON object a line."""

_STOP_WITHIN_S = 3.0


def run_baseline(
    config_arguments: Sequence[str],
    json_file: Path,
    outer_steps: int,
    display: Display,
    program: Sequence[str] = BASELINE,
) -> dict[str, Any]:
    """Train unsplit, show progress, and return what was written to `json_file`.

    Raises:
        CommandFailed: the baseline failed, or a signal came.
    """
    command = [*program, *config_arguments]
    env = environment(os.environ, "baseline")
    env.pop(MARKER_VARIABLE)
    with Interrupts() as interrupts, display:
        process = subprocess.Popen(  # noqa: S603  our own program
            [*command, "--json", str(json_file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=env,
            process_group=0,
            text=True,
        )
        # Reading its lines blocks; a signal must end it so that the reading ends.
        interrupts.on_signal = process.terminate
        try:
            _relay(process, outer_steps, display, interrupts)
        finally:
            _stop(process)
    if process.returncode != 0:
        code = process.returncode if process.returncode == BAD_CONFIG else BUG
        raise CommandFailed(f"the baseline ended: {describe_exit(process.returncode)}", code=code)
    loaded: dict[str, Any] = json.loads(json_file.read_text())
    return loaded


def _relay(
    process: subprocess.Popen[str], outer_steps: int, display: Display, interrupts: Interrupts
) -> None:
    for line in process.stdout or ():
        interrupts.check()
        step = _step_in(line)
        if step is not None:
            display.show(_describe(step), float(step.get("outer_step", 0)), float(outer_steps))
    process.wait()
    interrupts.check()


def _step_in(line: str) -> dict[str, Any] | None:
    """Return the step that a line reports; None for the report at the end and for other words."""
    try:
        parsed = json.loads(line)
    except json.JSONDecodeError:
        return None
    return parsed if isinstance(parsed, dict) and "step" in parsed else None


def _describe(step: Mapping[str, Any]) -> str:
    return (
        f"outer step {step.get('outer_step', '?')}  inner step {step['step']}"
        f"  loss {text.loss_text(step.get('loss'))}"
    )


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def summary(result: Mapping[str, Any]) -> str:
    """Return the baseline's result for people."""
    evaluation = result.get("eval") or {}
    accuracy = evaluation.get("accuracy")
    shown = "" if accuracy is None else f"accuracy {accuracy:.1%}, "
    earned = evaluation.get("mean_return")
    shown += "" if earned is None else f"mean return {earned:.0f}, "
    return (
        f"baseline  {shown}loss {text.loss_text(evaluation.get('loss'))} on the validation samples"
    )
