"""One local run: start the daemons, follow the run to its end, stop everything, report."""

import os
import secrets
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from distqatctl.client import SOCKET_NAME
from distqatctl.config_commands import DISTQATD
from distqatctl.errors import BUG, DEADLINE_PASSED, CommandFailed
from distqatctl.local.census import Census
from distqatctl.local.children import (
    Child,
    ParentPipe,
    environment,
    raise_if_dead,
    start_child,
    stop_children,
)
from distqatctl.local.display import Display, describe, progress_of
from distqatctl.local.folders import Folders, open_folders
from distqatctl.local.interrupts import Interrupts
from distqatctl.local.plan import DaemonPlan, RunPlan, arguments, daemons
from distqatctl.local.report import make_report
from distqatctl.local.watch import Snapshot, Watcher, all_at_step
from distqatd.api.schema import LocalReport
from distqatd.base.clock import Clock

_TICK_S = 0.05
_POLL_EVERY_S = 0.4
_COUNT_EVERY_S = 1.0
_JOIN_FILE_WITHIN_S = 30.0
_SETTLE_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """What `distqatctl local` was asked for.

    Attributes:
        config_arguments: `--config` and `--set` as given to every daemon.
        experts_per_stage: replicas of each stage, and number of trainers.
        timeout_s: the whole run must end within it.
        run_dir: keep the daemons' state there; None: a temporary folder that is removed.
        program: what starts a daemon.
    """

    config_arguments: tuple[str, ...]
    experts_per_stage: int
    timeout_s: float
    run_dir: Path | None = None
    program: tuple[str, ...] = DISTQATD


class LocalRun:
    """One run; `execute` does it all, and leaves nothing running however it ends."""

    def __init__(
        self, plan: RunPlan, options: LocalOptions, display: Display, clock: Clock
    ) -> None:
        self._plan = plan
        self._options = options
        self._display = display
        self._clock = clock
        self._interrupts = Interrupts()
        marker = secrets.token_hex(8)
        self._census = Census(marker)
        self._env = environment(os.environ, marker)
        self._children: list[Child] = []
        self._parent_pipe = ParentPipe()
        self._leftovers: tuple[str, ...] = ()
        self._is_over = False
        self._next_count = 0.0
        self._deadline = 0.0

    def execute(self) -> LocalReport:
        """Run to the end and report.

        Raises:
            CommandFailed: a daemon died, the deadline passed, or a signal came.
        """
        with ExitStack() as stack:
            stack.enter_context(self._interrupts)
            folders = stack.enter_context(open_folders(self._plan.prefix, self._options.run_dir))
            stack.enter_context(self._parent_pipe)
            stack.enter_context(self._display)
            began, launched_unix_s = time.perf_counter(), self._clock.now()
            self._deadline = began + self._options.timeout_s
            self._display.say(f"logs: {folders.log_dir}")
            self._display.say(f"look inside: distqatctl status --socket {self._socket(folders)}")
            try:
                self._start_all(folders)
                last = self._follow(folders)
                wall_s = time.perf_counter() - began
                last = self._settle(folders, last)
            finally:
                self._stop(folders)
            if last.run is None:
                raise CommandFailed("the client's daemon stopped answering", code=BUG)
            return make_report(
                last,
                last.run,
                experts_per_stage=self._options.experts_per_stage,
                launched_unix_s=launched_unix_s,
                wall_s=wall_s,
                processes=self._census.peak,
                leftovers=self._leftovers,
            )

    def _start_all(self, folders: Folders) -> None:
        """Start the monitor, then, as soon as it can be joined, all others at once."""
        monitor, *others = daemons(self._plan, self._options.experts_per_stage)
        self._start(monitor, folders)
        self._display.show("starting the monitor", 0, self._plan.outer_steps)
        self._wait_for_join_file(folders)
        for daemon in others:
            self._start(daemon, folders)

    def _start(self, daemon: DaemonPlan, folders: Folders) -> None:
        given = arguments(
            daemon,
            state_root=folders.state_root,
            log_dir=folders.log_dir,
            join_file=folders.join_file,
            parent_fd=self._parent_pipe.read_fd,
        )
        command = [*self._options.program, *given, *self._options.config_arguments]
        log_file = folders.log_dir / f"{daemon.name}.log"
        child = start_child(daemon.name, command, log_file, self._env, self._parent_pipe.read_fd)
        self._children.append(child)

    def _wait_for_join_file(self, folders: Folders) -> None:
        deadline = time.perf_counter() + _JOIN_FILE_WITHIN_S
        while not (folders.join_file.exists() and folders.join_file.stat().st_size):
            self._tick()
            if time.perf_counter() > deadline:
                raise CommandFailed(
                    f"the monitor wrote no {folders.join_file} within {_JOIN_FILE_WITHIN_S:g} s",
                    code=DEADLINE_PASSED,
                    fix=f"its log: {folders.log_dir / 'monitor_0.log'}",
                )

    def _follow(self, folders: Folders) -> Snapshot:
        """Show progress until the run is finished; return what was seen last."""
        watcher = self._watcher(folders)
        while True:
            snapshot = watcher.look()
            done, total = progress_of(snapshot)
            self._display.show(describe(snapshot, self._options.experts_per_stage), done, total)
            if snapshot.finished:
                return snapshot
            self._pause(_POLL_EVERY_S)

    def _settle(self, folders: Folders, last: Snapshot) -> Snapshot:
        """Give the replicas time to announce the last outer step, which they made already."""
        self._is_over = True
        self._census.note_ports()
        watcher = self._watcher(folders)
        deadline = time.perf_counter() + _SETTLE_WITHIN_S
        replicas = self._options.experts_per_stage
        while not all_at_step(last, self._plan.outer_steps, replicas):
            if time.perf_counter() > deadline:
                break
            self._pause(_POLL_EVERY_S)
            newer = watcher.look()
            last = newer if newer.finished else last
        return last

    def _watcher(self, folders: Folders) -> Watcher:
        return Watcher(self._socket(folders))

    @staticmethod
    def _socket(folders: Folders) -> Path:
        return folders.state_root / "client_0" / SOCKET_NAME

    def _pause(self, seconds: float) -> None:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            self._tick()

    def _tick(self) -> None:
        """Wait a moment, and end the run if something demands it."""
        time.sleep(_TICK_S)
        self._interrupts.check()
        raise_if_dead(self._children, may_exit=self._is_over)
        now = time.perf_counter()
        if now > self._next_count:
            self._census.count()
            self._next_count = now + _COUNT_EVERY_S
        if now > self._deadline:
            raise CommandFailed(
                f"the run did not end within {self._options.timeout_s:g} s",
                code=DEADLINE_PASSED,
                fix="give it more with --timeout, or look into the logs",
            )

    def _stop(self, folders: Folders) -> None:
        """Stop all daemons, kill what they left, and look for what is there even so."""
        if not self._children:
            return
        self._census.count()
        asked_before = self._interrupts.count
        self._display.show("stopping", 0, 0)
        stop_children(self._children, hurry=lambda: self._interrupts.count > max(1, asked_before))
        self._census.kill_survivors()
        self._leftovers = self._census.leftovers(folders.state_root)
        for thing in self._leftovers:
            self._display.say(f"left behind: {thing}")
