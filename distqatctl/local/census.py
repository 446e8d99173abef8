"""Counts a run's processes, and looks for what is left of them after the stop."""

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from distqatctl.local.children import MARKER_VARIABLE

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  looked at, never written
_GONE_WAIT_S = 2.0


class Census:
    """Remembers every process and port seen, so that survivors are known afterwards."""

    def __init__(self, marker: str, *, shared_memory: Path = _SHARED_MEMORY) -> None:
        self._marker = marker
        self._shared_memory_dir = shared_memory
        self._shared_memory_before = self._shared_memory()
        self._seen: dict[int, psutil.Process] = {}
        self._ports: set[int] = set()
        self.peak = 0

    def count(self) -> None:
        """Take in the processes that run now: our children and theirs."""
        now = psutil.Process().children(recursive=True)
        self._seen.update({process.pid: process for process in now})
        self.peak = max(self.peak, len(now))

    def note_ports(self) -> None:
        """Take in the ports that those processes listen on."""
        self._ports |= {port for port, pid in _listening() if pid in self._seen}

    def kill_survivors(self) -> None:
        """Kill what outlived its daemon."""
        survivors = self._survivors()
        for process in survivors:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(survivors, timeout=_GONE_WAIT_S)

    def leftovers(self, state_root: Path) -> tuple[str, ...]:
        """Return what is still there, by name: processes, ports, socket files, shared memory."""
        survivors = self._survivors()
        ours = {process.pid for process in survivors} | {None}
        held = {port for port, pid in _listening() if port in self._ports and pid in ours}
        sockets = [path for path in state_root.rglob("*") if path.is_socket()]
        found = [f"process {process.pid} ({_name(process)})" for process in survivors]
        found += [f"port {port}" for port in sorted(held)]
        found += [f"socket {path}" for path in sorted(sockets)]
        found += [f"shared memory {path}" for path in sorted(self._new_shared_memory())]
        return tuple(found)

    def _survivors(self) -> list[psutil.Process]:
        own_pid = os.getpid()
        alive = {pid: p for pid, p in self._seen.items() if _is_alive(p)}
        # Found by the inherited marker: one that started and lost its parent between two counts.
        alive |= {p.pid: p for p in psutil.process_iter() if self._is_marked(p) and _is_alive(p)}
        return [process for pid, process in sorted(alive.items()) if pid != own_pid]

    def _is_marked(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARKER_VARIABLE) == self._marker
        except (psutil.Error, OSError):
            return False

    def _shared_memory(self) -> set[Path]:
        with suppress(OSError):
            return {path for path in self._shared_memory_dir.iterdir() if _is_own(path)}
        return set()

    def _new_shared_memory(self) -> set[Path]:
        """Return our user's new entries that no living process has mapped or open."""
        new = self._shared_memory() - self._shared_memory_before
        return new - _in_use(self._shared_memory_dir) if new else set()


def _is_own(path: Path) -> bool:
    try:
        return path.stat().st_uid == os.getuid()
    except OSError:
        return False


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()[:6]) or process.name()
    except psutil.Error:
        return "?"


def _listening() -> Iterator[tuple[int, int | None]]:
    """Yield (port, pid) of every TCP listener and UDP socket; pid None if it is not told."""
    try:
        connections = psutil.net_connections(kind="inet")
    except (psutil.AccessDenied, OSError):
        return
    for connection in connections:
        is_udp = connection.type == socket.SOCK_DGRAM
        if connection.laddr and (is_udp or connection.status == psutil.CONN_LISTEN):
            yield connection.laddr.port, connection.pid


def _in_use(folder: Path) -> set[Path]:
    """Return the files of `folder` that some living process of this user has mapped or open."""
    used: set[Path] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            used |= {Path(entry.path) for entry in process.memory_maps()}
            used |= {Path(entry.path) for entry in process.open_files()}
    return {path for path in used if path.parent == folder}
