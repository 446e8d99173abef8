"""What a link sends: at once where that goes without waiting, else from a task of its own."""

import asyncio
from collections.abc import Callable

from distqatd.base.errors import ConnectionClosed
from distqatd.net.transport import ByteStream
from distqatd.wire import limits
from distqatd.wire.session import Session

BURST_BYTES = 4 << 20
"""Bytes after which a reader or writer that never had to wait lets others run."""

_SLOW_S_PER_BYTE = 20e-3 / limits.CHUNK_BYTES
"""A link on which 1 MiB takes longer than 20 ms gets small DATA frames."""


class Writer:
    """The only one that sends on a link, so that no frame is torn.

    Args:
        session: what is queued.
        stream: where it goes.
        last_word: asked after everything that is sent: why the link ends now, if it does.
    """

    def __init__(
        self, session: Session, stream: ByteStream, last_word: Callable[[], str | None]
    ) -> None:
        self.bytes_out = 0
        self._session = session
        self._stream = stream
        self._last_word = last_word
        self._idle: asyncio.Future[None] | None = None  # `run` waits on it
        self._rest: list[memoryview] = []  # of what `wake` could not send

    def wake(self) -> None:
        """Have what is queued sent. Where the socket takes all of it, `run` has no part in it.

        Raises:
            ConnectionClosed: the connection is gone.
        """
        if self._idle is None or self._idle.done():
            return
        buffers = self._session.next_buffers()
        self._rest = self._stream.send_now(*buffers) if buffers else []
        self.bytes_out += _num_bytes(buffers) - _num_bytes(self._rest)
        if self._rest or self._session.wants_to_send or self._last_word() is not None:
            self._idle.set_result(None)

    async def run(self) -> None:
        """Send what `wake` leaves, until the link ends.

        Raises:
            ConnectionClosed: the connection is gone, or the last word is said.
        """
        loop = asyncio.get_running_loop()
        burst = 0
        while True:
            buffers, self._rest = self._rest or self._session.next_buffers(), []
            if buffers:
                num_bytes = _num_bytes(buffers)
                began_s = loop.time()
                await self._stream.send(*buffers)
                self.bytes_out += num_bytes
                self._choose_chunk(num_bytes, loop.time() - began_s)
                burst += num_bytes
            if (reason := self._last_word()) is not None:
                raise ConnectionClosed(reason)
            if not buffers:
                self._idle = loop.create_future()
                await self._idle
            elif burst > BURST_BYTES:
                burst = 0
                await asyncio.sleep(0)

    def _choose_chunk(self, num_bytes: int, took_s: float) -> None:
        if num_bytes >= limits.SLOW_CHUNK_BYTES:
            slow = took_s > num_bytes * _SLOW_S_PER_BYTE
            chunk_bytes = limits.SLOW_CHUNK_BYTES if slow else limits.CHUNK_BYTES
            self._session.set_chunk_bytes(chunk_bytes)


def _num_bytes(buffers: list[memoryview]) -> int:
    return sum(map(len, buffers))
