"""The real transport: TCP with TLS 1.3, and UDP, on one port number."""

import asyncio
import errno
import ipaddress
import logging
import socket
import struct
from collections.abc import Coroutine
from typing import Any

import psutil

from distqatd.base.errors import (
    DialError,
    DistqatError,
    NetworkError,
    NothingListens,
    PortInUse,
)
from distqatd.base.ids import PeerId
from distqatd.identity.tls import TlsContexts
from distqatd.net.address import Address
from distqatd.net.gate import Gate, GateLimits, plain_host
from distqatd.net.meter import Meter
from distqatd.net.secure import Plain, Security, Tls
from distqatd.net.sockets import SocketStream, tune
from distqatd.net.transport import OnStream

log = logging.getLogger(__name__)

_BACKLOG = 512
_PORT_TRIES = 20
_UDP_BUFFER_BYTES = 4 << 20
"""Bursts of datagrams over about 200 are dropped with the default buffer."""


class TcpTransport:
    """Implements `net.transport.Transport` with real sockets.

    Args:
        security: TLS contexts: what we present and whom we accept.
        limits: bounds on connections that others make.

    Attributes:
        meter: how fast all connections together carry bytes.
    """

    def __init__(self, security: TlsContexts | Security, limits: GateLimits | None = None) -> None:
        self.meter = Meter()
        self._security = Tls(security) if isinstance(security, TlsContexts) else security
        self._limits = limits or GateLimits()

    @classmethod
    def plain(cls, peer_id: PeerId) -> "TcpTransport":
        """Return a transport without any security, for measurements only."""
        return cls(Plain(peer_id))

    async def listen(self, host: str, port: int, on_stream: OnStream) -> "TcpListener":
        """Accept connections; port 0 picks one that is free for TCP and UDP.

        Raises:
            PortInUse: the port is taken.
            NetworkError: it may not be used.
        """
        sock = _bind_tcp(host, port)
        return TcpListener(sock, Address(host, sock.getsockname()[1]), self, on_stream)

    async def dial(
        self, address: Address, *, expect: PeerId | None, timeout_s: float
    ) -> SocketStream:
        """Connect to one of the host's addresses.

        Raises:
            DialError: no connection in time, no member of the swarm, or not the expected peer.
        """
        try:
            async with asyncio.timeout(timeout_s):
                stream = await self._connect(address)
        except TimeoutError as error:
            text = f"{address.host_port()} did not answer within {timeout_s:g} s"
            raise DialError(text) from error
        if expect not in {None, stream.peer_id}:
            stream.abort()
            raise DialError(f"{address.host_port()} is peer {stream.peer_id}, not {expect}")
        return stream

    async def datagrams(
        self, host: str, port: int, protocol: asyncio.DatagramProtocol
    ) -> asyncio.DatagramTransport:
        """Open a UDP endpoint.

        Raises:
            PortInUse: the port is taken.
            NetworkError: it may not be used.
        """
        sock = _bound(host, port, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _UDP_BUFFER_BYTES)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: protocol, sock=sock)
        return transport

    async def accept(self, sock: socket.socket, remote: Address) -> SocketStream:
        """Do the handshake of a connection that was let in.

        Raises:
            DialError: it failed or took too long; the socket is closed.
        """
        try:
            tune(sock)
            async with asyncio.timeout(self._limits.handshake_timeout_s):
                return await self._security.secure(sock, remote, self.meter, server=True)
        except (TimeoutError, OSError) as error:
            sock.close()
            raise DialError(f"no handshake with {remote.host_port()}: {error!r}") from error
        except BaseException:
            sock.close()
            raise

    def gate(self) -> Gate:
        """Return a fresh gate for a listener."""
        return Gate(self._limits)

    async def _connect(self, address: Address) -> SocketStream:
        failure = DialError(f"{address.host} has no address")
        for family, target in await _resolve(address):
            try:
                return await self._connect_to(family, target, address)
            except DialError as error:
                failure = error
            except ConnectionRefusedError as error:
                failure = NothingListens(f"{address.host_port()}: {error.strerror or error}")
            except OSError as error:
                failure = DialError(f"{address.host_port()}: {error.strerror or error}")
        raise failure

    async def _connect_to(
        self, family: int, target: tuple[Any, ...], address: Address
    ) -> SocketStream:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            tune(sock)
            await asyncio.get_running_loop().sock_connect(sock, target)
            return await self._security.secure(sock, address, self.meter, server=False)
        except BaseException:
            sock.close()
            raise


class TcpListener:
    """A listening port; owns a task per accepted connection until `close`."""

    def __init__(
        self, sock: socket.socket, address: Address, transport: TcpTransport, on_stream: OnStream
    ) -> None:
        self.address = address
        self._sock = sock
        self._transport = transport
        self._on_stream = on_stream
        self._gate = transport.gate()
        self._tasks: set[asyncio.Task[None]] = set()
        self._spawn(self._accept_loop(), "accept")

    async def close(self) -> None:
        """Stop listening and end the tasks of accepted connections."""
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._sock.close()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        # The listener is the owner: `close` cancels and awaits all of them.
        task = asyncio.get_running_loop().create_task(work, name=f"tcp.{name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept_loop(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, name = await loop.sock_accept(self._sock)
            except OSError as error:  # out of descriptors, or gone before we looked
                log.warning("tcp.accept_failed", extra={"error": str(error)})
                await asyncio.sleep(0.1)
                continue
            remote = Address(plain_host(name[0]), name[1])
            if self._gate.enter(remote.host):
                self._spawn(self._serve(sock, remote), "link")
            else:
                log.debug("tcp.shed", extra={"remote": remote.host})
                _reset(sock)

    async def _serve(self, sock: socket.socket, remote: Address) -> None:
        try:
            stream = await self._handshake(sock, remote)
            if stream is not None:
                await self._run(stream)
        finally:
            self._gate.leave(remote.host)

    async def _handshake(self, sock: socket.socket, remote: Address) -> SocketStream | None:
        try:
            return await self._transport.accept(sock, remote)
        except DistqatError as error:
            log.debug("tcp.handshake_failed", extra={"error": str(error)})
            return None
        finally:
            self._gate.handshake_over()

    async def _run(self, stream: SocketStream) -> None:
        try:
            await self._on_stream(stream)
        except Exception:
            # The boundary of one connection: a bug behind it must not end the others.
            log.exception("tcp.link_failed")
        finally:
            stream.abort()


async def _resolve(address: Address) -> list[tuple[int, tuple[Any, ...]]]:
    """Return socket families and addresses; only names need the resolver, which uses a thread."""
    try:
        version = ipaddress.ip_address(address.host).version
    except ValueError:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise DialError(f"{address.host} cannot be resolved: {error.strerror}") from error
        return [(int(info[0]), info[4]) for info in found]
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    return [(family, (address.host, address.port))]


def _bind_tcp(host: str, port: int) -> socket.socket:
    for _ in range(_PORT_TRIES):
        sock = _bound(host, port, socket.SOCK_STREAM)
        if port or _is_free_for_udp(host, sock.getsockname()[1]):
            sock.listen(_BACKLOG)
            return sock
        sock.close()
    raise PortInUse(f"no port of {host} is free for both TCP and UDP")


def _is_free_for_udp(host: str, port: int) -> bool:
    try:
        _bound(host, port, socket.SOCK_DGRAM).close()
    except PortInUse:
        return False
    return True


def _bound(host: str, port: int, kind: socket.SocketKind) -> socket.socket:
    """Return a non-blocking socket bound to `host`; `::` takes IPv4 too."""
    is_v6 = ":" in host
    sock = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET, kind)
    try:
        sock.settimeout(0)
        if is_v6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        if kind is socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise _bind_error(host, port, kind, error) from error
    return sock


def _bind_error(host: str, port: int, kind: socket.SocketKind, error: OSError) -> NetworkError:
    if error.errno != errno.EADDRINUSE:
        return NetworkError(f"cannot use port {port} of {host}: {error.strerror}")
    name = "TCP" if kind is socket.SOCK_STREAM else "UDP"
    holder = _holder(port, name.lower())
    return PortInUse(f"{name} port {port} is in use{holder}; choose another with --port")


def _holder(port: int, kind: str) -> str:
    """Return who has a port, as far as the system tells us."""
    try:
        for entry in psutil.net_connections(kind):
            if entry.laddr and entry.laddr.port == port and entry.pid:
                return f" by {psutil.Process(entry.pid).name()} (pid {entry.pid})"
    except (psutil.Error, OSError):
        pass
    return ""


def _reset(sock: socket.socket) -> None:
    """Close with a reset: costs neither side a TIME_WAIT."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
