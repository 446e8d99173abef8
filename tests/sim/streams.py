"""Simulated TCP links: ordered, reliable, stalled by partitions, reset by crashes.

Cheap on purpose: a message costs one timer at the sender and one wake-up at the receiver.
"""

import asyncio
from collections import deque
from typing import Literal

from distqatd.base.errors import ConnectionClosed, DistqatError
from distqatd.base.ids import PeerId
from distqatd.net.address import Address
from distqatd.net.transport import OnStream
from tests.sim.host import Host
from tests.sim.network import Network

WINDOW_BYTES = 4 << 20
"""Bytes on the way or unread, above which a sender waits: what socket buffers hold."""

Item = bytes | Literal["eof", "reset"]


class SimStream:
    """One end of a link; implements `distqatd.net.transport.ByteStream`."""

    def __init__(self, network: Network, host: Host, remote: Address, peer_id: PeerId) -> None:
        self.remote = remote
        self.peer_id = peer_id
        self.other: SimStream
        self.route = (remote.host, host.ip)
        self._network = network
        self._sockets = host.sockets
        self._loop = network.loop
        self._label = f"{remote.host}>{host.ip}"
        self._on_the_way: deque[tuple[float, Item]] = deque()
        self._unread: deque[memoryview] = deque()
        self._backlog = 0
        self._eof = False
        self._closed = False
        self._broken = ""
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._sockets[self] = None

    async def recv_into(self, buffer: memoryview) -> int:
        """Read what is there; 0 at the end."""
        while not self._unread:
            if self._broken:
                raise ConnectionClosed(f"{self.remote.host_port()}: {self._broken}")
            if self._eof:
                return 0
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        return self._read(buffer)

    async def send(self, *buffers: memoryview) -> None:
        """Put a copy of `buffers` on the way; waits while the window is full."""
        other = self.other
        while other._backlog > WINDOW_BYTES and not self._broken:
            self._writer = self._loop.create_future()
            try:
                await self._writer
            finally:
                self._writer = None
        self._post(*buffers)

    def send_now(self, *buffers: memoryview) -> list[memoryview]:
        """Put a copy of `buffers` on the way, or none of it while the window is full."""
        if self.other._backlog > WINDOW_BYTES and not self._broken:
            return list(buffers)
        self._post(*buffers)
        return []

    def _post(self, *buffers: memoryview) -> None:
        if self._broken:
            raise ConnectionClosed(f"{self.remote.host_port()}: {self._broken}")
        data = b"".join(buffers)
        self.other._backlog += len(data)
        self.other._put_on_the_way(data)

    def abort(self) -> None:
        """Close at once; the other end sees a reset."""
        self._end("reset", "closed here")

    async def close(self) -> None:
        """Close; the other end reads what was sent, then the end."""
        self.finish()

    def finish(self) -> None:
        """Do what `close` does, which never has to wait here."""
        self._end("eof", "closed here")

    def break_both(self) -> None:
        """Reset both ends, from outside."""
        self._put_on_the_way("reset")
        self.other._put_on_the_way("reset")

    def _end(self, last: Item, why: str) -> None:
        if self._closed:
            return
        self._closed = True
        self._sockets.pop(self, None)
        self._unread.clear()
        self._on_the_way.clear()
        self._break(why)
        self.other._put_on_the_way(last)

    def _read(self, buffer: memoryview) -> int:
        target, num_read = buffer.cast("B"), 0
        while self._unread and num_read < len(target):
            chunk = self._unread[0]
            size = min(len(chunk), len(target) - num_read)
            target[num_read : num_read + size] = chunk[:size]
            num_read += size
            if size == len(chunk):
                self._unread.popleft()
            else:
                self._unread[0] = chunk[size:]
        self._backlog -= num_read
        _wake(self.other._writer)
        return num_read

    def _put_on_the_way(self, item: Item) -> None:
        """Have `item` arrive here, after everything before it."""
        if self._closed and item in {"eof", "reset"}:
            return
        network, queue = self._network, self._on_the_way
        due_s = self._loop.time() + network.delay_s(*self.route)
        if queue and queue[-1][0] >= due_s:
            # Sent in the same instant as (or overtaking) the one before: its timer serves both.
            queue.append((queue[-1][0], item))
            return
        queue.append((due_s, item))
        self._loop.call_at(due_s, self.arrive, context=network.context)

    def arrive(self) -> None:
        """Take in what is due by now."""
        if self._network.is_cut(*self.route):
            return self._network.stall(self)
        queue, now_s = self._on_the_way, self._loop.time()
        while queue and queue[0][0] <= now_s:
            self._take(queue.popleft()[1])
        return _wake(self._reader)

    def _take(self, item: Item) -> None:
        if self._closed:
            # Nobody reads here any more: a kernel answers data with a reset.
            self._on_the_way.clear()
            self.other._put_on_the_way("reset")
        elif item == "eof":
            self._network.record("eof", self._label)
            self._eof = True
        elif item == "reset":
            self._network.record("reset", self._label)
            self._break("connection reset by peer")
        elif item:
            self._network.record("stream", self._label, item)
            self._unread.append(memoryview(item))

    def _break(self, why: str) -> None:
        self._broken = self._broken or why
        _wake(self._reader)
        _wake(self._writer)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def link(network: Network, dialer: Host, listener: "SimListener") -> SimStream:
    """Join two machines by a new link, hand one end to the listener, return the other."""
    here = Address(dialer.ip, network.free_port(), dialer.identity.peer_id)
    there = Address(listener.address.host, listener.address.port, listener.host.identity.peer_id)
    near = SimStream(network, dialer, there, listener.host.identity.peer_id)
    far = SimStream(network, listener.host, here, dialer.identity.peer_id)
    near.other, far.other = far, near
    network.record("dial", f"{dialer.ip}>{there.host}:{there.port}")
    listener.accept(far)
    return near


class SimListener:
    """A listening port; implements `distqatd.net.transport.Listener`."""

    def __init__(self, network: Network, host: Host, port: int, on_stream: OnStream) -> None:
        self.address = Address(host.ip, port)
        self.host = host
        self._network = network
        self._on_stream = on_stream
        self._context = host.context()
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._sockets = host.sockets
        self._sockets[self] = None
        network.listeners[host.ip, port] = self

    def accept(self, stream: SimStream) -> None:
        """Serve an accepted stream in a task of this listener, on this machine."""
        loop, name = self._network.loop, f"{self.host.ip}.stream"
        task = loop.create_task(self._serve(stream), name=name, context=self._context.copy())
        self._tasks[task] = None
        # Not a `finally` in the task: one that is cancelled before its first step runs none.
        task.add_done_callback(lambda done: self._served(done, stream))

    def _served(self, task: asyncio.Task[None], stream: SimStream) -> None:
        self._tasks.pop(task, None)
        stream.finish()

    async def _serve(self, stream: SimStream) -> None:
        try:
            await self._on_stream(stream)
        except DistqatError:
            stream.abort()
        except Exception as error:
            self._network.loop.fail(error)

    def abort(self) -> None:
        """Stop listening at once; a second time does nothing, the port may be another's by then."""
        if self._sockets.pop(self, self) is None:
            del self._network.listeners[self.address.host, self.address.port]

    async def close(self) -> None:
        """Stop listening and end the tasks of accepted streams."""
        self.abort()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
