"""The two listeners and their life: a unix socket for the owner, a loopback port for reads."""

import asyncio
import os
import socket
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from distqatd.api.app import create_app
from distqatd.api.guard import Guard
from distqatd.api.provider import Provider
from distqatd.base.errors import ConfigError, PortInUse

LOOPBACK = "127.0.0.1"
MAX_SOCKET_PATH_BYTES = 107
"""Bytes of a unix socket path, without its end, on Linux [source: unix(7)]; macOS has 103."""

_BACKLOG = 64
_MAX_CONNECTIONS = 128
_GRACE_S = 1
_PROBE_S = 1.0


def open_unix_socket(path: Path) -> socket.socket:
    """Bind and return a unix socket of mode 0600; one left by a dead daemon is replaced.

    Raises:
        PortInUse: a daemon answers there.
        ConfigError: the path is too long for a unix socket.
    """
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise ConfigError(
            f"{path} is longer than the {MAX_SOCKET_PATH_BYTES} bytes a unix socket path may have;"
            " choose a shorter --state-dir"
        )
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The umask, not a chmod after bind: there must be no moment when others may connect.
        previous = os.umask(0o177)
        try:
            listener.bind(os.fspath(path))
        finally:
            os.umask(previous)
        # Listening from now on tells the next daemon of this state dir that we are alive.
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    if not path.exists() or not stat.S_ISSOCK(path.lstat().st_mode):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
        else:
            raise PortInUse(
                f"another distqatd answers on {path}; stop it, or give this one its own --state-dir"
            )


def open_loopback(port: int) -> socket.socket:
    """Bind and return a TCP socket on 127.0.0.1; port 0 picks a free one.

    Raises:
        PortInUse: the port is taken.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise PortInUse(
            f"API port {LOOPBACK}:{port} cannot be used ({error.strerror});"
            " choose another with --api-port, or -1 for none"
        ) from error
    return listener


class _EmbeddedServer(uvicorn.Server):
    """uvicorn inside our loop: signals stay ours, cancellation is the only way to stop it."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def main_loop(self) -> None:
        # uvicorn looks for its exit flag ten times a second; we never set it, and an idle daemon
        # shall not wake a laptop for it. What is left is the Date header, once a second.
        while True:
            await self.on_tick(0)
            await asyncio.sleep(1.0)

    async def serve_until_cancelled(self, listener: socket.socket, stopping: asyncio.Event) -> None:
        try:
            await self.serve(sockets=[listener])
        finally:
            stopping.set()
            if self.started:
                await self.shutdown(sockets=[listener])
            listener.close()


def _server(app: ASGIApp) -> _EmbeddedServer:
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=_GRACE_S,
    )
    return _EmbeddedServer(config)


class ApiServer:
    """Serves one provider; `open` binds, `run` serves until it is cancelled and then cleans up.

    Whoever calls `open` calls `close` in the end, in case `run` never came to start.
    """

    def __init__(self, provider: Provider, socket_path: Path, tcp_port: int) -> None:
        """Remember what to serve and where.

        Args:
            provider: what answers.
            socket_path: where the unix socket is made; its folder must exist.
            tcp_port: loopback port; 0 picks a free one, -1 serves no TCP at all.
        """
        self._provider = provider
        self._socket_path = socket_path
        self._tcp_port = tcp_port
        self._unix: socket.socket | None = None
        self._tcp: socket.socket | None = None

    @property
    def tcp_port(self) -> int | None:
        """Return the bound loopback port; None before `open` or without TCP."""
        return None if self._tcp is None else int(self._tcp.getsockname()[1])

    def open(self) -> None:
        """Bind both listeners, so that a taken port is an error before anything else starts.

        Raises:
            PortInUse: the port is taken or another daemon answers on the socket.
            ConfigError: the socket's path is too long.
        """
        self._unix = open_unix_socket(self._socket_path)
        try:
            if self._tcp_port >= 0:
                self._tcp = open_loopback(self._tcp_port)
        except PortInUse:
            self.close()
            raise

    async def run(self) -> None:
        """Serve until cancelled; open event streams end, requests get a second to finish."""
        if self._unix is None:
            self.open()
        stopping = asyncio.Event()
        app = create_app(self._provider, stopping)
        try:
            async with asyncio.TaskGroup() as tasks:
                for listener, owner in self._listeners():
                    serving = _server(Guard(app, owner=owner))
                    work = serving.serve_until_cancelled(listener, stopping)
                    tasks.create_task(work, name="api.serve")
        finally:
            self.close()

    def _listeners(self) -> list[tuple[socket.socket, bool]]:
        pairs = ((self._unix, True), (self._tcp, False))
        return [(listener, owner) for listener, owner in pairs if listener is not None]

    def close(self) -> None:
        """Close what `open` bound and remove the socket's file; harmless when done twice."""
        if self._tcp is not None:
            self._tcp.close()
        if self._unix is not None:
            self._unix.close()
            self._socket_path.unlink(missing_ok=True)
        self._unix = self._tcp = None
