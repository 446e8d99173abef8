"""Packets between processes of this machine: a unix socket that keeps their bounds and owners.

The socket's name is abstract: it is no file, and is gone with the last process that has it. Anybody
on the machine may see it, so both ends check whose the other one is.
"""

import array
import asyncio
import json
import os
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Any

from distqatd.base.errors import DialError, RemoteProtocolError

MAX_PACKET = 16 << 10
_BACKLOG = 64
_CREDENTIALS = struct.Struct("3i")
_MAX_FDS = 4
_MAX_REST = 64
"""Packets that are read after the other end has closed."""


def listen(name: str) -> socket.socket | None:
    """Return a socket that listens under `name`; None if another process does."""
    made = _socket()
    try:
        made.bind(f"\0{name}")
        made.listen(_BACKLOG)
    except OSError:
        made.close()
        return None
    return made


def connect(name: str) -> socket.socket:
    """Return a socket to whoever listens under `name`.

    Raises:
        DialError: nobody does, or it is another user.
    """
    made = _socket()
    try:
        made.connect(f"\0{name}")
    except OSError as error:
        made.close()
        raise DialError(f"no data server answers: {error.strerror}") from error
    if not is_ours(made):
        made.close()
        raise DialError("another user of this machine listens where our data server would")
    return made


def is_ours(link: socket.socket) -> bool:
    """Return whether the process at the other end belongs to the same user."""
    raw = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(raw)
    return bool(user == os.getuid())


def _socket() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made.settimeout(0)
    return made


class Packets:
    """One end of a connection: JSON objects both ways, descriptors with the first ones.

    Attributes:
        is_open: whether it can still be used.
    """

    def __init__(
        self,
        link: socket.socket,
        on_packet: Callable[[dict[str, Any], list[int]], None],
        on_closed: Callable[[str], None],
    ) -> None:
        """Take the socket over and begin to read.

        Args:
            link: connected, does not block; closed by `close`.
            on_packet: called with every packet; owns the descriptors. A RemoteProtocolError
                closes the connection.
            on_closed: called once when the other end, or a broken rule, has closed it.
        """
        self._link = link
        self._on_packet = on_packet
        self._on_closed = on_closed
        self.is_open = True
        self._is_ending = False
        asyncio.get_running_loop().add_reader(link.fileno(), self._on_readable)

    def send(self, packet: Mapping[str, Any], fds: tuple[int, ...] = ()) -> None:
        """Send a packet; if the other end does not read, or is gone, the connection is closed."""
        if not self.is_open:
            return
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._link.sendmsg([json.dumps(packet).encode()], rights)
        except OSError as error:
            self._read_rest()
            self._end(error.strerror or str(error))

    def close(self) -> None:
        """Close our end; `on_closed` is not called."""
        if self.is_open:
            self.is_open = False
            asyncio.get_running_loop().remove_reader(self._link.fileno())
            self._link.close()

    def _read_rest(self) -> None:
        """Read what the other end sent before it closed: why it did, perhaps."""
        if self._is_ending:
            return
        self._is_ending = True
        for _ in range(_MAX_REST):
            if self.is_open:
                self._on_readable()

    def _end(self, reason: str) -> None:
        if self.is_open:
            self.close()
            self._on_closed(reason)

    def _on_readable(self) -> None:
        try:
            data, fds, flags, _ = socket.recv_fds(self._link, MAX_PACKET, _MAX_FDS)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error.strerror or str(error))
            return
        if not data:
            self._end("the other process is gone")
            return
        try:
            self._on_packet(_parsed(data, flags), fds)
        except RemoteProtocolError as error:
            self._end(str(error))


def _parsed(data: bytes, flags: int) -> dict[str, Any]:
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise RemoteProtocolError(f"a packet is longer than {MAX_PACKET} bytes")
    try:
        packet = json.loads(data)
    except ValueError as error:
        raise RemoteProtocolError(f"a packet is not JSON: {error}") from error
    if not isinstance(packet, dict):
        raise RemoteProtocolError("a packet is no JSON object")
    return packet
