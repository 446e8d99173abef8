"""A real swarm of daemons on this machine, that can be halted while something else is measured."""

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from distqatctl.client import Client
from distqatctl.config_commands import DISTQATD
from distqatctl.errors import CommandFailed
from distqatctl.local import children
from distqatd.api.schema import Status
from tests.bench.measure import cpu_s

JOIN_FILE = "initial_peers.txt"
START_WITHIN_S = 120.0


class Swarm:
    """The daemons by name. `workers` do the work: the trainer and the experts."""

    def __init__(self, folder: Path, pipe: children.ParentPipe, config: Sequence[str]) -> None:
        self._folder = folder
        self._pipe = pipe
        self._config = config
        self._daemons: dict[str, children.Child] = {}
        self.workers: list[str] = []

    def start(self, stages: tuple[str, ...]) -> None:
        """Start everybody: one expert per stage, one trainer."""
        self._start("monitor", "monitor")
        self._wait((self._folder / JOIN_FILE).exists, "the monitor")
        joining = ("--join", f"@{self._folder / JOIN_FILE}")
        self._start("client", "client", *joining)
        self._start("trainer", "trainer", *joining)
        for stage in stages:
            self._start(stage, "expert", "--stage", stage, *joining)
        self.workers = ["trainer", *stages]

    def wait_for_step(self, step: int) -> None:
        """Wait until the last expert has taken this many inner steps."""
        self._wait(lambda: self.inner_step() >= step, f"inner step {step}")

    def inner_step(self) -> int:
        """Return the inner steps of the last stage's expert; 0 while it is not serving."""
        socket = self._folder / self.workers[-1] / "api.sock"
        try:
            status = Client(socket, timeout_s=10.0).get(Status, "/v1/status")
        except CommandFailed:
            return 0
        return max((expert.inner_step for expert in status.experts), default=0)

    def cpu_s(self, names: list[str] | None = None) -> dict[str, float]:
        """Return the CPU seconds of daemons so far."""
        return {name: cpu_s(self._daemons[name].process.pid) for name in names or self._daemons}

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Freeze all daemons at once; they never notice, as long as it is for a few seconds."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stop all daemons."""
        children.stop_children([*self._daemons.values()], hurry=lambda: False)

    def check(self) -> None:
        """Raise if one has ended."""
        children.raise_if_dead([*self._daemons.values()])

    def _start(self, name: str, role: str, *more: str) -> None:
        command = [
            *(*DISTQATD, "--role", role, *more, *self._config),
            *("--state-dir", str(self._folder / name)),
            *("--log-file", str(self._folder / f"{name}.log")),
            *("--network-secret-file", str(self._folder / "swarm.secret")),
            *("--host", "127.0.0.1", "--port", "0", "--api-port", "-1"),
            *("--parent-fd", str(self._pipe.read_fd)),
        ]
        log_file = self._folder / f"{name}.log"
        env = children.environment(os.environ, "bench")
        self._daemons[name] = children.start_child(name, command, log_file, env, self._pipe.read_fd)

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.perf_counter() + START_WITHIN_S
        while not condition():
            self.check()
            if time.perf_counter() > deadline:
                raise RuntimeError(f"{what} took more than {START_WITHIN_S:g} s")
            time.sleep(0.2)

    def _signal(self, number: signal.Signals) -> None:
        for child in self._daemons.values():
            child.process.send_signal(number)


@contextmanager
def running(config: Sequence[str], stages: tuple[str, ...]) -> Iterator[Swarm]:
    """Run a swarm; stop it and remove its state and logs at the end.

    Args:
        config: `--config` and `--set` for every daemon.
        stages: names of the stages.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dqb-")))
        swarm = Swarm(folder, stack.enter_context(children.ParentPipe()), config)
        stack.callback(swarm.stop)
        swarm.start(stages)
        yield swarm
