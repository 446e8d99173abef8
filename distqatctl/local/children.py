"""The daemons as processes: started, looked after and stopped."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from distqatctl.errors import BUG, CommandFailed
from distqatctl.text import clean, duration

MARKER_VARIABLE = "DQ_LOCAL_RUN"
"""Environment variable that every process of a run inherits; not `DISTQAT_*`: those are config."""

_NOT_INHERITED = ("DISTQAT_JOIN", "INITIAL_PEERS", "DISTQAT_STATE_DIR", "STATE_DIRECTORY")
_NOT_INHERITED_FROM_SYSTEMD = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
_GRACE_S = 4.0
_SECOND_GRACE_S = 1.0
_KILL_WAIT_S = 2.0
_TICK_S = 0.02
_NUM_TAIL_LINES = 12
_TAIL_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class Child:
    """A daemon's process; its log has all it ever printed."""

    name: str
    process: subprocess.Popen[bytes]
    log_file: Path
    started: float


class ParentPipe:
    """A pipe whose write end is ours alone: however we die, the kernel closes it.

    The daemons hold the read end (`read_fd`) and stop when it reaches its end.
    """

    def __enter__(self) -> Self:
        """Open the pipe."""
        self.read_fd, self._write_fd = os.pipe()
        return self

    def __exit__(self, *_: object) -> None:
        """Close both ends."""
        os.close(self._write_fd)
        os.close(self.read_fd)


def environment(base: Mapping[str, str], marker: str) -> dict[str, str]:
    """Return a daemon's environment: one thread each, no initial peers of the user's own swarm."""
    dropped = {*_NOT_INHERITED, *_NOT_INHERITED_FROM_SYSTEMD}
    kept = {name: value for name, value in base.items() if name not in dropped}
    return {**kept, "OMP_NUM_THREADS": "1", MARKER_VARIABLE: marker}


def start_child(
    name: str, command: Sequence[str], log_file: Path, env: Mapping[str, str], parent_fd: int
) -> Child:
    """Start a daemon whose output goes to the end of its own log file."""
    log_file.write_bytes(b"")
    with log_file.open("ab") as log:
        process = subprocess.Popen(  # noqa: S603  our own program
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(env),
            pass_fds=(parent_fd,),
            # A group of its own: Ctrl-C reaches us alone, and we stop the daemons in order.
            process_group=0,
        )
    return Child(name, process, log_file, time.perf_counter())


def raise_if_dead(children: Sequence[Child], *, may_exit: bool = False) -> None:
    """Report the first daemon that has ended although nobody asked it to.

    Args:
        children: whom to look at.
        may_exit: the run is over, so that ending with exit code 0 is fine.

    Raises:
        CommandFailed: one has; with its exit code, its last log lines and where the rest is.
    """
    for child in children:
        returncode = child.process.poll()
        if returncode is None or (may_exit and returncode == 0):
            continue
        ran = duration(time.perf_counter() - child.started)
        lines = "\n".join(f"  | {line}" for line in tail(child.log_file))
        # What distqatd itself means by its code (bad config, could not join) is ours as well.
        code = returncode if returncode in {69, 78} else BUG
        raise CommandFailed(
            f"{child.name} ended after {ran}: {describe_exit(returncode)}\n{lines}",
            code=code,
            fix=f"its whole log: {child.log_file}",
        )


def describe_exit(returncode: int) -> str:
    """Return how a process ended, in words."""
    if returncode >= 0:
        return f"exit code {returncode}"
    with suppress(ValueError):
        return f"killed by {signal.Signals(-returncode).name}"
    return f"killed by signal {-returncode}"


def tail(log_file: Path, num_lines: int = _NUM_TAIL_LINES) -> list[str]:
    """Return the last lines of a log, made safe for a terminal."""
    try:
        with log_file.open("rb") as log:
            log.seek(max(0, log_file.stat().st_size - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return [clean(line) for line in lines[-num_lines:]]


def stop_children(children: Sequence[Child], *, hurry: Callable[[], bool]) -> None:
    """Stop all daemons: SIGTERM, after a grace SIGTERM again (stop at once), then SIGKILL.

    Args:
        children: whom to stop; those that have ended already are skipped.
        hurry: asked again and again; true skips to SIGKILL (a second Ctrl-C).
    """
    for grace_s in (_GRACE_S, _SECOND_GRACE_S):
        _signal(children, signal.SIGTERM)
        if _all_ended(children, grace_s, hurry):
            return
    _signal(children, signal.SIGKILL)
    _all_ended(children, _KILL_WAIT_S, lambda: False)


def _signal(children: Sequence[Child], number: signal.Signals) -> None:
    for child in children:
        if child.process.poll() is not None:
            continue
        with suppress(ProcessLookupError, PermissionError):
            if number is signal.SIGKILL:
                os.killpg(child.process.pid, number)
            else:
                child.process.send_signal(number)


def _all_ended(children: Sequence[Child], within_s: float, hurry: Callable[[], bool]) -> bool:
    deadline = time.perf_counter() + within_s
    while any(child.process.poll() is None for child in children):
        if time.perf_counter() > deadline or hurry():
            return False
        time.sleep(_TICK_S)
    return True
