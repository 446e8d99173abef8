"""The seam to the network: a byte stream between two peers, a listener, a dialer, datagrams.

`net.tcp` is the real one; the simulator and unit tests bring their own.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from distqatd.base.ids import PeerId
from distqatd.net.address import Address


class ByteStream(Protocol):
    """One connection, authenticated: the peer id has been proven by the transport.

    At most one task receives and one sends at a time.
    """

    @property
    def peer_id(self) -> PeerId:
        """Return who is at the other end."""
        ...

    @property
    def remote(self) -> Address:
        """Return where the other end is, as seen from here."""
        ...

    async def recv_into(self, buffer: memoryview) -> int:
        """Read what is there, at least 1 byte, into `buffer`; return how many, 0 at the end.

        Cancelling it loses no bytes: either they were returned, or the next call reads them.

        Raises:
            ConnectionClosed: the connection was reset.
        """
        ...

    async def send(self, *buffers: memoryview) -> None:
        """Send all of `buffers`, in order. They must not change until this returns.

        Cancelling it tears the byte stream: only a caller that then aborts may do so.

        Raises:
            ConnectionClosed: the connection was reset or closed.
        """
        ...

    def send_now(self, *buffers: memoryview) -> list[memoryview]:
        """Send what goes without waiting; return the rest, to be given to `send` as it is.

        Not while a task is in `send`.

        Raises:
            ConnectionClosed: the connection was reset or closed.
        """
        ...

    def abort(self) -> None:
        """Close at once; whoever waits in `recv_into` or `send` gets ConnectionClosed."""
        ...

    async def close(self) -> None:
        """Close after what was sent has been handed over; bounded in time."""
        ...


OnStream = Callable[[ByteStream], Awaitable[None]]
"""What to do with an accepted connection; when it returns, the connection is closed."""


class Listener(Protocol):
    """An open listening port."""

    @property
    def address(self) -> Address:
        """Return what it listens on, with the port that was really chosen."""
        ...

    async def close(self) -> None:
        """Stop listening and end the tasks of accepted connections."""
        ...


class Transport(Protocol):
    """Makes byte streams."""

    async def listen(self, host: str, port: int, on_stream: OnStream) -> Listener:
        """Accept connections and run `on_stream` for each in a task the listener owns.

        Raises:
            PortInUse: the port is taken; names it and, where it can be known, the holder.
        """
        ...

    async def dial(
        self, address: Address, *, expect: PeerId | None, timeout_s: float
    ) -> ByteStream:
        """Connect to a peer; with `expect`, only to that one.

        Raises:
            DialError: no connection, or somebody else answered, or not in time.
        """
        ...

    async def datagrams(
        self, host: str, port: int, protocol: asyncio.DatagramProtocol
    ) -> asyncio.DatagramTransport:
        """Open a datagram endpoint.

        Raises:
            PortInUse: the port is taken.
        """
        ...
