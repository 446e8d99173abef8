"""A byte stream on a non-blocking socket, plain or TLS, on any event loop.

Neither asyncio's streams nor its transports: on Python 3.11 they copy what they could not send
(0.13 to 0.4 of the raw speed at 64 MiB), and `loop.sock_*` refuses TLS sockets.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

from distqatd.base.errors import ConnectionClosed
from distqatd.base.ids import PeerId
from distqatd.net.address import Address
from distqatd.net.meter import PAUSE_S, SEND_PAUSE_S, Meter, Span

_RECORD_BYTES = 16 << 10
"""Most that one TLS record, and so one read, returns."""

_JOIN_BYTES = 64 << 10
"""Units up to this size are copied together: one record, one packet, one system call."""

_UNSENT_BYTES = 256 << 10
"""Unsent bytes the kernel may hold: what is behind them can still be overtaken."""

_USER_TIMEOUT_MS = 15_000

_WOULD_BLOCK = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def tune(sock: socket.socket) -> None:
    """Set up a connected TCP socket; buffer sizes are left to the kernel, which adapts them."""
    sock.settimeout(0)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name, value in (
        ("TCP_NOTSENT_LOWAT", _UNSENT_BYTES),
        ("TCP_USER_TIMEOUT", _USER_TIMEOUT_MS),
    ):
        option = getattr(socket, name, None)
        if option is not None:  # Linux has both
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


class Waiter:
    """Waits until a socket can be read or written; several tasks may wait at once.

    Both directions of TLS need both kinds of readiness, so reader and writer may want the same.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = sock.fileno()
        self._readers: list[asyncio.Future[None]] = []
        self._writers: list[asyncio.Future[None]] = []
        self._watches_reads = False

    async def ready_for(self, error: OSError) -> None:
        """Wait for what a call that would block has asked for; `plain` errors mean reading."""
        if isinstance(error, ssl.SSLWantWriteError):
            await self.writable()
        else:
            await self.readable()

    async def readable(self) -> None:
        """Wait until there is something to read, or `wake` is called."""
        if not self._watches_reads:
            self._watches_reads = True
            self._loop.add_reader(self._fd, self._on_readable)
        await self._join(self._readers)

    async def writable(self) -> None:
        """Wait until something can be written, or `wake` is called."""
        if not self._writers:
            self._loop.add_writer(self._fd, self._on_writable)
        await self._join(self._writers)

    def wake(self) -> None:
        """Let everybody go on, and watch the socket no more; do this before closing it."""
        self._stop_watching_reads()
        _release(self._readers)
        self._on_writable()

    async def _join(self, waiting: list[asyncio.Future[None]]) -> None:
        ready = self._loop.create_future()
        waiting.append(ready)
        await ready

    def _on_readable(self) -> None:
        # Watched on while somebody reads: to stop and start again for every wait costs 8 us.
        if not self._readers:
            self._stop_watching_reads()
        _release(self._readers)

    def _stop_watching_reads(self) -> None:
        self._watches_reads = False
        self._loop.remove_reader(self._fd)

    def _on_writable(self) -> None:
        self._loop.remove_writer(self._fd)
        _release(self._writers)


def _release(waiting: list[asyncio.Future[None]]) -> None:
    for ready in waiting:
        if not ready.done():
            ready.set_result(None)
    waiting.clear()


class SocketStream:
    """Implements `net.transport.ByteStream`; owns the socket.

    What it carries is counted by `meter`, which all streams of a transport share.
    """

    def __init__(
        self,
        sock: socket.socket,
        waiter: Waiter,
        peer_id: PeerId,
        remote: Address,
        meter: Meter | None = None,
    ) -> None:
        self.peer_id = peer_id
        self.remote = remote
        self._meter = meter = meter or Meter()
        self._out, self._in = Span(meter.up, SEND_PAUSE_S), Span(meter.down, PAUSE_S)
        self._time = asyncio.get_running_loop().time
        self._sock = sock
        self._waiter = waiter
        self._closed = False
        self._drained = False
        is_tls = isinstance(sock, ssl.SSLSocket)
        self._recv: Callable[[memoryview], int] = self._recv_tls if is_tls else sock.recv_into
        self._send_some = self._send_tls if is_tls else self._send_plain

    async def recv_into(self, buffer: memoryview) -> int:
        """Read what is there; tries first, unless the last read left nothing behind."""
        if self._drained:
            self._drained = False
            await self._waiter.readable()
        while True:
            try:
                num_bytes = self._recv(buffer)
            except _WOULD_BLOCK as error:
                would_block = error
            except OSError as error:
                raise self._broken(error) from error
            else:
                # To try again would cost a system call and an exception for every message.
                self._drained = 0 < num_bytes < len(buffer)
                if self._meter.is_on:
                    self._count_in(num_bytes)
                return num_bytes
            await self._waiter.ready_for(would_block)

    async def send(self, *buffers: memoryview) -> None:
        """Send all of `buffers`, gathered by the kernel or, if small, joined here."""
        rest = _units(buffers)
        if self._meter.is_on:
            self._out.resume(self._time())
        while (would_block := self._push(rest)) is not None:
            if isinstance(would_block, ssl.SSLWantReadError):
                await self._waiter.ready_for(would_block)
            else:
                await self._waiter.writable()

    def send_now(self, *buffers: memoryview) -> list[memoryview]:
        """Send what the kernel takes at once, and return the rest."""
        rest = _units(buffers)
        if self._meter.is_on:
            self._out.resume(self._time())
        self._push(rest)
        return rest

    def _push(self, rest: list[memoryview]) -> OSError | None:
        """Send from the front of `rest` until it is empty, or return what would block."""
        try:
            while rest:
                num_bytes = self._send_some(rest)
                _drop_front(rest, num_bytes)
                if self._meter.is_on:
                    self._out.moved(num_bytes, self._time())
        except _WOULD_BLOCK as error:
            if self._meter.is_on:  # the kernel is full: from here on the link sets the pace
                self._out.begin(self._time())
            return error
        except OSError as error:
            raise self._broken(error) from error
        return None

    def _count_in(self, num_bytes: int) -> None:
        now = self._time()
        self._in.resume(now)
        self._in.moved(num_bytes, now)
        self._in.begin(now)

    def abort(self) -> None:
        """Close at once; what the kernel has taken is still sent."""
        if not self._closed:
            self._closed = True
            self._waiter.wake()
            self._sock.close()

    async def close(self) -> None:
        """Close; what was sent has been handed to the kernel already."""
        if not self._closed:
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)
        self.abort()

    def _recv_tls(self, buffer: memoryview) -> int:
        """Read records until one is not full: most likely the last that is there."""
        num_bytes = 0
        while num_bytes < len(buffer):
            try:
                received = self._sock.recv_into(buffer[num_bytes:])
            except _WOULD_BLOCK:
                if not num_bytes:
                    raise
                break
            num_bytes += received
            if received < _RECORD_BYTES:
                break
        return num_bytes

    def _send_plain(self, buffers: list[memoryview]) -> int:
        return self._sock.sendmsg(buffers)

    def _send_tls(self, buffers: list[memoryview]) -> int:
        # A write that would block must be repeated with the same buffer: it is not dropped.
        return self._sock.send(buffers[0])

    def _broken(self, error: OSError) -> ConnectionClosed:
        if self._closed:
            return ConnectionClosed("closed here")
        what = "TLS" if isinstance(error, ssl.SSLError) else "reset"
        detail = getattr(error, "reason", None) or error.strerror or type(error).__name__
        return ConnectionClosed(f"{what}: {detail}")


def _units(buffers: tuple[memoryview, ...]) -> list[memoryview]:
    """Return what to send one after the other: small buffers joined, empty ones left out."""
    if len(buffers) > 1 and sum(map(len, buffers)) <= _JOIN_BYTES:
        return [memoryview(b"".join(buffers))]
    return [buffer for buffer in buffers if len(buffer)]


def _drop_front(buffers: list[memoryview], num_bytes: int) -> None:
    """Remove the first `num_bytes` bytes of `buffers`."""
    while num_bytes:
        size = len(buffers[0])
        if num_bytes < size:
            buffers[0] = buffers[0][num_bytes:]
            return
        num_bytes -= size
        del buffers[0]
