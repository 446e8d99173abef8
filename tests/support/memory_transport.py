"""Byte streams in memory on any event loop: the least that a pool of links needs."""

import asyncio
from collections import deque

from distqatd.base.errors import ConnectionClosed, DialError
from distqatd.base.ids import PeerId
from distqatd.net.address import Address

WINDOW_BYTES = 1 << 20


class MemoryStream:
    """One end of a connection; implements `distqatd.net.transport.ByteStream`."""

    def __init__(self, peer_id: PeerId, remote: Address) -> None:
        self.peer_id = peer_id
        self.remote = remote
        self.other: MemoryStream
        self.frozen = False  # a frozen end neither gives nor takes bytes, like a pulled cable
        self._unread: deque[memoryview] = deque()
        self._state = "open"
        self._changed = asyncio.Event()

    async def recv_into(self, buffer: memoryview) -> int:
        while not self._unread or self.frozen:
            if self._state == "reset":
                raise ConnectionClosed("reset")
            if self._state == "eof" and not self.frozen:
                return 0
            await self._change()
        data = self._unread.popleft()
        size = min(len(buffer), len(data))
        buffer[:size] = data[:size]
        if size < len(data):
            self._unread.appendleft(data[size:])
        self.other._changed.set()
        return size

    async def send(self, *buffers: memoryview) -> None:
        while rest := self.send_now(*buffers):
            buffers = tuple(rest)
            await self._change()

    def send_now(self, *buffers: memoryview) -> list[memoryview]:
        self._check()
        if self.frozen or sum(map(len, self.other._unread)) > WINDOW_BYTES:
            return list(buffers)
        self.other._unread.append(memoryview(b"".join(buffers)))
        self.other._changed.set()
        return []

    def abort(self, state: str = "eof") -> None:
        if self._state == "reset":
            return
        self._state = "reset"
        self._changed.set()
        if not self.frozen and self.other._state == "open":
            self.other._state = state
            self.other._changed.set()

    async def close(self) -> None:
        self.abort()

    def _check(self) -> None:
        if self._state != "open":
            raise ConnectionClosed("reset")

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class MemoryListener:
    def __init__(self, net: "MemoryNet", address: Address, peer_id, on_stream) -> None:
        self.address = address
        self.peer_id = peer_id
        self._net = net
        self._on_stream = on_stream
        self._tasks: set[asyncio.Task] = set()

    def accept(self, stream: MemoryStream) -> None:
        task = asyncio.get_running_loop().create_task(self._run(stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, stream: MemoryStream) -> None:
        try:
            await self._on_stream(stream)
        finally:
            stream.abort()

    async def close(self) -> None:
        self._net.listeners.pop(self.address.port, None)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))


class MemoryNet:
    """The wire: listeners by port, and every stream that was made."""

    def __init__(self) -> None:
        self.listeners: dict[int, MemoryListener] = {}
        self.streams: list[tuple[MemoryStream, MemoryStream]] = []  # (dialer's end, other end)

    def reset_all(self) -> None:
        """Break every connection, as a network that changes its address does."""
        for pair in self.streams:
            for stream in pair:
                stream.abort("reset")


class MemoryTransport:
    """A peer's way to the net; implements `distqatd.net.transport.Transport`."""

    def __init__(self, net: MemoryNet, peer_id: PeerId) -> None:
        self.net = net
        self.peer_id = peer_id
        self.dials = 0
        self.hold: asyncio.Event | None = None  # dials wait for it

    async def listen(self, host, port, on_stream) -> MemoryListener:
        port = port or 1000 + len(self.net.listeners)
        listener = MemoryListener(self.net, Address("127.0.0.1", port), self.peer_id, on_stream)
        self.net.listeners[port] = listener
        return listener

    async def dial(self, address: Address, *, expect, timeout_s: float) -> MemoryStream:
        self.dials += 1
        if self.hold is not None:
            await self.hold.wait()
        listener = self.net.listeners.get(address.port)
        if listener is None:
            raise DialError(f"nothing listens at {address.host_port()}")
        if expect not in {None, listener.peer_id}:
            raise DialError(f"{address.host_port()} is {listener.peer_id}, not {expect}")
        ours = MemoryStream(listener.peer_id, address)
        theirs = MemoryStream(self.peer_id, Address("127.0.0.1", 60000))
        ours.other, theirs.other = theirs, ours
        self.net.streams.append((ours, theirs))
        listener.accept(theirs)
        return ours

    async def datagrams(self, host, port, protocol):
        raise NotImplementedError
