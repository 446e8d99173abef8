"""Talks to one daemon over its unix socket, with nothing but the standard library's HTTP."""

import http.client
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlencode

import platformdirs
from pydantic import ValidationError

from distqatctl.errors import BUG, DEADLINE_PASSED, NO_DAEMON, NOT_ALLOWED, CommandFailed
from distqatd.api.schema import ErrorReply, Event, Reply

R = TypeVar("R", bound=Reply)

SOCKET_NAME = "api.sock"
SERVICE_STATE_DIR = Path("/var/lib/distqat")
"""State folder of the systemd unit, whose socket only root can open."""


def default_socket(env: Mapping[str, str]) -> Path:
    """Return where this user's daemon listens, or the system service's if only that exists."""
    if env.get("DISTQAT_STATE_DIR"):
        return Path(env["DISTQAT_STATE_DIR"]) / SOCKET_NAME
    own = platformdirs.user_state_path("distqat") / SOCKET_NAME
    service = SERVICE_STATE_DIR / SOCKET_NAME
    return service if not own.exists() and service.exists() else own


class _UnixConnection(http.client.HTTPConnection):
    """HTTP whose connection is a unix socket."""

    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("distqat")
        self._path = path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._timeout_s)
        self.sock.connect(os.fspath(self._path))


class Client:
    """One daemon, addressed by the path of its socket; every call opens a connection of its own."""

    def __init__(self, path: Path, *, timeout_s: float = 10.0) -> None:
        self.path = path
        self._timeout_s = timeout_s

    def get(self, kind: type[R], route: str, **query: object) -> R:
        """Return the reply of `GET route`.

        Raises:
            CommandFailed: no daemon answers, or it answers with an error.
        """
        return self._reply(kind, "GET", _with_query(route, query), None)

    def post(self, kind: type[R], route: str, body: Mapping[str, object]) -> R:
        """Return the reply of `POST route` with a JSON body.

        Raises:
            CommandFailed: no daemon answers, or it answers with an error.
        """
        return self._reply(kind, "POST", route, json.dumps(body))

    def events(self, *, since: int = 0, follow: bool = False) -> Iterator[Event]:
        """Yield events as they come; ends with what is kept, or with the daemon if `follow`.

        Raises:
            CommandFailed: no daemon answers, or it answers with an error.
        """
        route = _with_query("/v1/events", {"since": since, "follow": str(follow).lower()})
        connection = _UnixConnection(self.path, None if follow else self._timeout_s)
        try:
            response = self._send(connection, "GET", route, None)
            for line in response:
                yield _parse(Event, line)
        except (OSError, http.client.HTTPException) as error:
            raise CommandFailed(
                f"the daemon on {self.path} went away ({_cause(error)})", code=NO_DAEMON
            ) from error
        finally:
            connection.close()

    def _reply(self, kind: type[R], method: str, route: str, body: str | None) -> R:
        connection = _UnixConnection(self.path, self._timeout_s)
        try:
            response = self._send(connection, method, route, body)
            return _parse(kind, response.read())
        except TimeoutError as error:
            raise self._silent() from error
        finally:
            connection.close()

    def _send(
        self, connection: _UnixConnection, method: str, route: str, body: str | None
    ) -> http.client.HTTPResponse:
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, route, body, headers)
            response = connection.getresponse()
        except TimeoutError as error:
            raise self._silent() from error
        except PermissionError as error:
            raise CommandFailed(
                f"{self.path} belongs to another user",
                code=NOT_ALLOWED,
                fix="run the command as the daemon's user, for a system service with sudo",
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise CommandFailed(
                f"no daemon answers on {self.path} ({_cause(error)})",
                code=NO_DAEMON,
                fix="start one: distqatd --role monitor --role client;"
                " or name another with --socket PATH",
            ) from error
        if response.status >= http.client.BAD_REQUEST:
            failure = _parse(ErrorReply, response.read())
            raise CommandFailed(failure.message, code=failure.exit_code)
        return response

    def _silent(self) -> CommandFailed:
        return CommandFailed(
            f"the daemon on {self.path} did not answer within {self._timeout_s:g} s",
            code=DEADLINE_PASSED,
            fix="look at its log; a daemon that hangs is restarted by its service manager",
        )


def _with_query(route: str, query: Mapping[str, object]) -> str:
    return f"{route}?{urlencode(query)}" if query else route


def _cause(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _parse(kind: type[R], text: bytes) -> R:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "reply"
        raise CommandFailed(
            f"the daemon's answer is not what this distqatctl knows ({where}: {problem['msg']})",
            code=BUG,
            fix="use the distqatctl of the daemon's own installation",
        ) from error
