"""HELLO: what peers say first, how it travels, and whether two peers belong together."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from distqatd.base.errors import (
    ConnectionClosed,
    DialError,
    IdentityError,
    RemoteProtocolError,
    error_for_code,
)
from distqatd.base.ids import parse_peer_id
from distqatd.net.rpc import Hello
from distqatd.net.transport import ByteStream
from distqatd.wire.events import GoAwayReceived, HelloReceived
from distqatd.wire.messages import Failure
from distqatd.wire.session import Session

HELLO_TIMEOUT_S = 5.0
REFUSE_TIMEOUT_S = 1.0

_MAX_TEXT = 256
_MAX_ITEMS = 16
_LARGEST = (1 << 63) - 1
_TEXTS = ("peer_id", "swarm_id", "run_id", "config_digest")
_LISTS = ("roles", "addresses")
_NUMBERS = ("boot_epoch", "version", "listen_port")

_COMPARED = {
    "version": "protocol version",
    "swarm_id": "swarm id",
    "run_id": "run id",
    "config_digest": "config digest",
}
"""Fields in which two peers must not differ, and how people call them."""


async def send_hello(stream: ByteStream, session: Session, ours: Hello) -> None:
    """Say who we are; must be the first thing sent.

    Raises:
        DialError: the connection broke or is stuck.
    """
    session.hello(asdict(ours))
    async with _handshake_errors(stream):
        await _flush(stream, session)


async def read_hello(stream: ByteStream, session: Session) -> Hello:
    """Read who the peer says it is; nothing it sent is trusted before this returns.

    Raises:
        DialError: no HELLO in time, or the connection broke (as it does for a client that a
            TLS 1.3 server rejects).
        RemoteProtocolError: it was not a HELLO, or not one of the peer that TLS proved.
        DistqatError: the peer refused us, as the class of its code.
    """
    async with _handshake_errors(stream):
        theirs = parse_hello(await _first_fields(stream, session))
    if theirs.peer_id != stream.peer_id:
        raise RemoteProtocolError(f"HELLO of {theirs.peer_id} from {stream.peer_id}")
    return theirs


@asynccontextmanager
async def _handshake_errors(stream: ByteStream) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(HELLO_TIMEOUT_S):
            yield
    except TimeoutError as error:
        raise DialError(f"no HELLO from {stream.remote} in {HELLO_TIMEOUT_S} s") from error
    except ConnectionClosed as error:
        raise DialError(f"{stream.remote} closed the link before its HELLO: {error}") from error


async def refuse(stream: ByteStream, session: Session, failure: Failure) -> None:
    """Tell the peer why there will be no link, and close it; bounded in time."""
    session.go_away(failure)
    try:
        async with asyncio.timeout(REFUSE_TIMEOUT_S):
            await _flush(stream, session)
            await stream.close()
    except (TimeoutError, ConnectionClosed):
        stream.abort()


async def _flush(stream: ByteStream, session: Session) -> None:
    while buffers := session.next_buffers():
        await stream.send(*buffers)


async def _first_fields(stream: ByteStream, session: Session) -> dict[str, Any]:
    while True:
        num_bytes = await stream.recv_into(session.buffer())
        if not num_bytes:
            raise ConnectionClosed("end of stream")
        for event in session.received(num_bytes):
            if isinstance(event, HelloReceived):
                return event.fields
            if isinstance(event, GoAwayReceived):
                raise error_for_code(event.failure.code)(event.failure.text)


def parse_hello(fields: Mapping[str, Any]) -> Hello:
    """Check what a peer says about itself; fields we do not know are ignored.

    Raises:
        RemoteProtocolError: a field is missing, of another type or too long.
    """
    for name in _TEXTS:
        _check_text(name, fields.get(name))
    for name in _LISTS:
        _check_list(name, fields.get(name))
    for name in _NUMBERS:
        value = fields.get(name)
        if type(value) is not int or not 0 <= value <= _LARGEST:
            raise RemoteProtocolError(f"HELLO: {name} is not a number")
    try:
        peer_id = parse_peer_id(fields["peer_id"])
    except IdentityError as error:
        raise RemoteProtocolError(f"HELLO: {error}") from error
    return Hello(
        peer_id=peer_id,
        swarm_id=fields["swarm_id"],
        run_id=fields["run_id"],
        config_digest=fields["config_digest"],
        roles=tuple(fields["roles"]),
        addresses=tuple(fields["addresses"]),
        boot_epoch=fields["boot_epoch"],
        version=fields["version"],
        listen_port=fields["listen_port"],
    )


def mismatch(ours: Hello, theirs: Hello) -> str | None:
    """Return why two peers must not be linked, naming both values, or None.

    An empty value means "not known yet" and matches anything.
    """
    for field, name in _COMPARED.items():
        here, there = getattr(ours, field), getattr(theirs, field)
        if here != there and here != "" and there != "":
            return f"{name} is {here!r} at {ours.peer_id[:8]} and {there!r} at {theirs.peer_id[:8]}"
    return None


def _check_text(name: str, value: object) -> None:
    if type(value) is not str or len(value) > _MAX_TEXT:
        raise RemoteProtocolError(f"HELLO: {name} is not a short text")


def _check_list(name: str, value: object) -> None:
    if type(value) is not list or len(value) > _MAX_ITEMS:
        raise RemoteProtocolError(f"HELLO: {name} is not a short list")
    for item in value:
        _check_text(name, item)
