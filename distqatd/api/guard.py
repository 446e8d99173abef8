"""Who may ask what: the listener a request came in by decides, never what the request says.

The unix socket has mode 0600, so whoever reaches it owns the daemon and may do everything. The
loopback port is open to every program of the machine, and through a browser to every web page:
it answers reads alone, only under a loopback `Host` (a page that rebinds its own name to
127.0.0.1 still sends that name) and never to another origin.
"""

import re
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from distqatd.api.schema import ErrorReply

OWNER_KEY = "distqat.owner"
"""Set in the ASGI scope by `Guard`; a request without it is not the owner's."""

_LOOPBACK_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.ASCII)
_READING = frozenset({"GET", "HEAD"})
_OWN_FETCH_SITES = frozenset({"same-origin", "none"})


def refusal(method: str, headers: Mapping[str, str]) -> str | None:
    """Return why the loopback port must not answer such a request; None if it may."""
    host = headers.get("host", "")
    if not _LOOPBACK_HOST.fullmatch(host):
        return f"Host {host!r} is not a loopback name; ask for http://127.0.0.1"
    origin = headers.get("origin")
    if origin is not None and origin != f"http://{host}":
        return f"origin {origin!r} is another site"
    if headers.get("sec-fetch-site", "none") not in _OWN_FETCH_SITES:
        return "the request was started by another site"
    if method not in _READING:
        return f"{method} acts on the daemon; it is only served on the unix socket"
    return None


def error_response(status_code: int, reply: ErrorReply) -> Response:
    """Return `reply` as a JSON response."""
    return Response(reply.to_json(), status_code, media_type="application/json")


def owner_only(request: Request) -> None:
    """Let only requests pass that came in by the unix socket.

    Raises:
        HTTPException: 403 for any other.
    """
    if request.scope.get(OWNER_KEY) is not True:
        raise HTTPException(403, f"{request.url.path} is only served on the daemon's unix socket")


class Guard:
    """ASGI wrapper around the app, one per listener; `owner` tells which listener it is."""

    def __init__(self, app: ASGIApp, *, owner: bool) -> None:
        self._app = app
        self._owner = owner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse with 403, or mark the scope and pass it on."""
        if scope["type"] == "http":
            reason = (
                None if self._owner else refusal(scope["method"], HTTPConnection(scope).headers)
            )
            if reason is not None:
                reply = ErrorReply(code="not-allowed", message=reason, exit_code=6)
                await error_response(403, reply)(scope, receive, send)
                return
            scope = {**scope, OWNER_KEY: self._owner}
        await self._app(scope, receive, send)
