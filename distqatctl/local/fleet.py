"""The daemons of a run by name: started, killed, replaced and stopped."""

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from distqatctl.client import SOCKET_NAME, Client
from distqatctl.errors import CommandFailed
from distqatctl.local.children import (
    Child,
    ParentPipe,
    environment,
    raise_if_dead,
    start_child,
    stop_children,
)
from distqatctl.local.folders import Folders
from distqatctl.local.plan import DaemonPlan, arguments
from distqatd.api.schema import Status

_ASK_TIMEOUT_S = 2.0
_GONE_WAIT_S = 5.0
_NUM_JOIN_ADDRESSES = 6


class Fleet:
    """Real daemons under one run's folders."""

    def __init__(
        self,
        folders: Folders,
        program: Sequence[str],
        config_arguments: Sequence[str],
        marker: str,
        pipe: ParentPipe,
    ) -> None:
        self._folders = folders
        self._program = tuple(program)
        self._config_arguments = tuple(config_arguments)
        self._env = environment(os.environ, marker)
        self._pipe = pipe
        self._children: dict[str, Child] = {}
        self._plans: dict[str, DaemonPlan] = {}
        self._killed: set[str] = set()

    def start(self, daemon: DaemonPlan, join: Sequence[str] = ()) -> None:
        """Start a daemon that joins at these addresses; the first one of all joins nobody."""
        folders = self._folders
        given = arguments(
            daemon,
            state_root=folders.state_root,
            log_dir=folders.log_dir,
            join=join,
            parent_fd=self._pipe.read_fd,
        )
        command = [*self._program, *given, *self._config_arguments]
        log_file = folders.log_dir / f"{daemon.name}.log"
        child = start_child(daemon.name, command, log_file, self._env, self._pipe.read_fd)
        self._children[daemon.name] = child
        self._plans[daemon.name] = daemon

    def start_another(self, role: str) -> DaemonPlan:
        """Start a fresh daemon, with a name and a state folder that nobody had, and return it.

        It joins at whoever lives: the monitor, whose address the others were given, may be dead.
        """
        same = [name for name, plan in self._plans.items() if plan.role == role]
        daemon = DaemonPlan(f"{role}_{len(same)}", role)
        self.start(daemon, self.addresses())
        return daemon

    def addresses(self) -> tuple[str, ...]:
        """Return where some of the living daemons answer."""
        found: list[str] = []
        for name in self.living():
            with suppress(CommandFailed):
                found += self.client(name).get(Status, "/v1/status").peer.addresses
        return tuple(found[:_NUM_JOIN_ADDRESSES])

    def living(self, *roles: str) -> tuple[str, ...]:
        """Return the daemons that were not killed, of these roles or of all."""
        return tuple(
            name
            for name, plan in self._plans.items()
            if name not in self._killed and (not roles or plan.role in roles)
        )

    def role(self, name: str) -> str:
        """Return what a daemon does."""
        return self._plans[name].role

    def pid(self, name: str) -> int:
        """Return the process id of a daemon."""
        return self._children[name].process.pid

    def client(self, name: str) -> Client:
        """Return what asks a daemon over its socket."""
        return Client(self.socket(name), timeout_s=_ASK_TIMEOUT_S)

    def socket(self, name: str) -> Path:
        """Return the path of a daemon's socket."""
        return self._folders.state_root / name / SOCKET_NAME

    def kill(self, name: str) -> None:
        """Kill a daemon with SIGKILL, and tidy up its socket file, which it cannot do any more."""
        process = self._children[name].process
        self._killed.add(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(_GONE_WAIT_S)
        self.socket(name).unlink(missing_ok=True)

    def check(self, *, may_exit: bool = False) -> None:
        """Report a daemon that ended although nobody asked it to.

        Raises:
            CommandFailed: one has.
        """
        raise_if_dead([self._children[name] for name in self.living()], may_exit=may_exit)

    def stop(self, hurry: Callable[[], bool]) -> None:
        """Stop all daemons; `hurry` turning true skips to SIGKILL."""
        stop_children([*self._children.values()], hurry=hurry)
        for name, child in self._children.items():
            if child.process.poll() == -signal.SIGKILL:
                self.socket(name).unlink(missing_ok=True)
