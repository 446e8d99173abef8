"""One local run: start the daemons, follow the run to its end, stop everything, report."""

import secrets
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from distqatctl.config_commands import DISTQATD
from distqatctl.errors import BUG, DEADLINE_PASSED, CommandFailed
from distqatctl.interrupts import Interrupts
from distqatctl.local.census import Census
from distqatctl.local.children import ParentPipe
from distqatctl.local.display import Display, describe, progress_of
from distqatctl.local.drill import Drill
from distqatctl.local.fleet import Fleet
from distqatctl.local.folders import Folders, open_folders
from distqatctl.local.plan import RunPlan, daemons
from distqatctl.local.report import make_report, verdict
from distqatctl.local.timeline import Timeline, resumed_from
from distqatctl.local.victims import Role, stage_of
from distqatctl.local.watch import Snapshot, Watcher, all_at_step
from distqatd.api.local_schema import LocalReport
from distqatd.base.clock import Clock

_TICK_S = 0.05
_POLL_EVERY_S = 0.4
_WATCH_EVERY_S = 0.1
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
        kill: SIGKILL a daemon of this role after the first outer step.
        program: what starts a daemon.
    """

    config_arguments: tuple[str, ...]
    experts_per_stage: int
    timeout_s: float
    run_dir: Path | None = None
    kill: Role | None = None
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
        self._marker = secrets.token_hex(8)
        self._census = Census(self._marker)
        self._parent_pipe = ParentPipe()
        self._replicas = dict.fromkeys(plan.stages, options.experts_per_stage)
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
            return self._execute(folders)

    def _execute(self, folders: Folders) -> LocalReport:
        options = self._options
        fleet = Fleet(
            folders, options.program, options.config_arguments, self._marker, self._parent_pipe
        )
        timeline = Timeline(fleet)
        drill = Drill(fleet, timeline, self._clock, self._display.say)
        watcher = Watcher(fleet)
        began, launched_unix_s = time.perf_counter(), self._clock.now()
        self._deadline = began + options.timeout_s
        self._display.say(f"logs: {folders.log_dir}")
        self._display.say(f"look inside: distqatctl status --socket {fleet.socket('client_0')}")
        try:
            self._start_all(fleet, folders)
            self._wait_for_training(fleet, watcher)
            outer_step = self._resumed_from(timeline)
            last = self._follow(fleet, watcher, drill)
            wall_s = time.perf_counter() - began
            kill = drill.give_up()
            last = self._settle(fleet, watcher, last)
        finally:
            self._stop(fleet, folders)
        if last.run is None:
            raise CommandFailed("the client's daemon stopped answering", code=BUG)
        return make_report(
            last,
            last.run,
            replicas=self._replicas,
            launched_unix_s=launched_unix_s,
            wall_s=wall_s,
            processes=self._census.peak,
            leftovers=self._leftovers,
            kill=kill,
            resumed_from=outer_step,
        )

    def _start_all(self, fleet: Fleet, folders: Folders) -> None:
        """Start the monitor, then, as soon as it can be joined, all others at once."""
        num_clients = 2 if self._options.kill == "client" else 1
        monitor, *others = daemons(self._plan, self._options.experts_per_stage, num_clients)
        fleet.start(monitor)
        self._display.show("starting the monitor", 0, self._plan.outer_steps)
        self._wait_for_join_file(fleet, folders)
        for daemon in others:
            fleet.start(daemon, (f"@{folders.join_file}",))

    def _wait_for_join_file(self, fleet: Fleet, folders: Folders) -> None:
        deadline = time.perf_counter() + _JOIN_FILE_WITHIN_S
        while not (folders.join_file.exists() and folders.join_file.stat().st_size):
            self._tick(fleet)
            if time.perf_counter() > deadline:
                raise CommandFailed(
                    f"the monitor wrote no {folders.join_file} within {_JOIN_FILE_WITHIN_S:g} s",
                    code=DEADLINE_PASSED,
                    fix=f"its log: {folders.log_dir / 'monitor_0.log'}",
                )

    def _wait_for_training(self, fleet: Fleet, watcher: Watcher) -> None:
        """Show who is there until all stages are served."""
        while True:
            snapshot = watcher.look()
            done, total = progress_of(snapshot)
            self._display.show(describe(snapshot, self._options.experts_per_stage), done, total)
            if snapshot.training or snapshot.finished:
                return
            self._pause(fleet, _POLL_EVERY_S)

    def _resumed_from(self, timeline: Timeline) -> int | None:
        """Return the outer step of the checkpoint that experts have loaded, and say so."""
        if not self._plan.resume:
            return None
        timeline.collect()
        outer_step = resumed_from(timeline.all())
        if outer_step is not None:
            self._display.say(f"continuing from the checkpoint of outer step {outer_step}")
        return outer_step

    def _follow(self, fleet: Fleet, watcher: Watcher, drill: Drill) -> Snapshot:
        """Show progress until the run is finished; return what was seen last."""
        while True:
            snapshot = watcher.look()
            done, total = progress_of(snapshot)
            self._display.show(describe(snapshot, self._options.experts_per_stage), done, total)
            if snapshot.finished:
                return snapshot
            self._kill_if_due(fleet, drill, snapshot)
            is_recovering = drill.has_struck and drill.outcome is None
            self._pause(fleet, _WATCH_EVERY_S if is_recovering else _POLL_EVERY_S)

    def _kill_if_due(self, fleet: Fleet, drill: Drill, snapshot: Snapshot) -> None:
        """After the first outer step kill one daemon; then watch how the swarm gets over it."""
        role, run = self._options.kill, snapshot.run
        if role is None or run is None or run.outer_step < 1:
            return
        if drill.has_struck:
            if drill.outcome is None and (outcome := drill.watch()) is not None:
                self._display.say(verdict(outcome))
            return
        victim = drill.strike(role, run.outer_step)
        if victim is None:
            return
        if not victim.has_spare:
            fresh = fleet.start_another(role)
            self._display.say(f"nobody stands by for it: {fresh.name} is started")
        elif role == "expert":
            self._replicas[stage_of(victim.uid)] -= 1

    def _settle(self, fleet: Fleet, watcher: Watcher, last: Snapshot) -> Snapshot:
        """Give the replicas time to announce the last outer step, which they made already.

        And its checkpoint time to be kept, if any are.
        """
        self._is_over = True
        self._census.note_ports()
        deadline = time.perf_counter() + _SETTLE_WITHIN_S
        while not (
            all_at_step(last, self._plan.outer_steps, self._replicas)
            and (not self._plan.keeps or watcher.kept_step() >= self._plan.outer_steps)
        ):
            if time.perf_counter() > deadline:
                break
            self._pause(fleet, _POLL_EVERY_S)
            newer = watcher.look()
            last = newer if newer.finished else last
        return last

    def _pause(self, fleet: Fleet, seconds: float) -> None:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            self._tick(fleet)

    def _tick(self, fleet: Fleet) -> None:
        """Wait a moment, and end the run if something demands it."""
        time.sleep(_TICK_S)
        self._interrupts.check()
        fleet.check(may_exit=self._is_over)
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

    def _stop(self, fleet: Fleet, folders: Folders) -> None:
        """Stop all daemons, kill what they left, and look for what is there even so."""
        if not fleet.living():
            return
        self._census.count()
        asked_before = self._interrupts.count
        self._display.show("stopping", 0, 0)
        fleet.stop(hurry=lambda: self._interrupts.count > max(1, asked_before))
        self._census.kill_survivors()
        self._leftovers = self._census.leftovers(folders.state_root)
        for thing in self._leftovers:
            self._display.say(f"left behind: {thing}")
