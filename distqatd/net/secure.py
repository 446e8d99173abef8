"""How a fresh TCP connection comes to prove who is at its other end."""

import asyncio
import socket
import ssl
from typing import Protocol

from distqatd.base.errors import ConnectionClosed, DialError, IdentityError
from distqatd.base.ids import PeerId, parse_peer_id
from distqatd.identity.tls import TlsContexts, peer_id_from_cert
from distqatd.net.address import Address
from distqatd.net.meter import Meter
from distqatd.net.sockets import SocketStream, Waiter


class Security(Protocol):
    """Turns a connected socket into an authenticated stream."""

    async def secure(
        self, sock: socket.socket, remote: Address, meter: Meter, *, server: bool
    ) -> SocketStream:
        """Do the handshake; the caller bounds it in time and closes `sock` if it fails.

        The stream counts what it carries in `meter`.

        Raises:
            DialError: the other side is no member of the swarm, or not even a peer.
        """
        ...


class Tls:
    """TLS 1.3 with certificates on both sides, as every real link uses it."""

    def __init__(self, contexts: TlsContexts) -> None:
        self._contexts = contexts

    async def secure(
        self, sock: socket.socket, remote: Address, meter: Meter, *, server: bool
    ) -> SocketStream:
        """Do the TLS handshake and read the peer id from the certificate."""
        context = self._contexts.server if server else self._contexts.client
        wrapped = context.wrap_socket(sock, server_side=server, do_handshake_on_connect=False)
        waiter = Waiter(wrapped)
        try:
            await _handshake(wrapped, waiter)
            peer_id = peer_id_from_cert(wrapped.getpeercert(binary_form=True) or b"")
        except ssl.SSLCertVerificationError as error:
            text = f"{remote.host_port()} is not in our swarm: {error.verify_message}"
            raise _closed(wrapped, waiter, f"{text}; compare swarm name and secret") from error
        except (OSError, IdentityError) as error:
            reason = getattr(error, "reason", None) or str(error) or type(error).__name__
            text = f"TLS with {remote.host_port()} failed: {reason}"
            raise _closed(wrapped, waiter, text) from error
        except asyncio.CancelledError:
            _closed(wrapped, waiter, "")
            raise
        return SocketStream(wrapped, waiter, peer_id, remote, meter)


class Plain:
    """No security at all: each side only says who it is. For measurements, never for a swarm."""

    def __init__(self, peer_id: PeerId) -> None:
        self._peer_id = peer_id

    async def secure(
        self, sock: socket.socket, remote: Address, meter: Meter, *, server: bool
    ) -> SocketStream:
        """Exchange peer ids in clear text."""
        stream = SocketStream(sock, Waiter(sock), self._peer_id, remote, meter)
        try:
            await stream.send(memoryview(self._peer_id.encode()))
            name = await _read_exactly(stream, len(self._peer_id))
            stream.peer_id = parse_peer_id(name.decode(errors="replace"))
        except (ConnectionClosed, IdentityError) as error:
            stream.abort()
            raise DialError(f"{remote.host_port()} did not say who it is: {error}") from error
        return stream


async def _read_exactly(stream: SocketStream, num_bytes: int) -> bytes:
    data = memoryview(bytearray(num_bytes))
    received = 0
    while received < num_bytes:
        count = await stream.recv_into(data[received:])
        if not count:
            raise ConnectionClosed("end of stream")
        received += count
    return bytes(data)


async def _handshake(sock: ssl.SSLSocket, waiter: Waiter) -> None:
    while True:
        try:
            return sock.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            would_block = error
        await waiter.ready_for(would_block)


def _closed(sock: ssl.SSLSocket, waiter: Waiter, text: str) -> DialError:
    waiter.wake()
    sock.close()
    return DialError(text)
