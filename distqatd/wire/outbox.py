"""What a link sends next: control frames first, then small frames, then DATA in turns of 1 MiB.

Nothing is ever cut: a frame is either handed out whole or still ours to drop.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile

from distqatd.base.errors import RemoteProtocolError
from distqatd.wire import limits
from distqatd.wire.frame import FrameType, encode_frame
from distqatd.wire.messages import data_frame

_BATCH_BYTES = 64 * limits.KIB
"""Small frames that are sent as one unit; messages up to this size do not wait for turns."""

_TURN_BYTES = limits.CHUNK_BYTES
"""Bytes that a stream sends before it is another one's turn, in several frames on a slow link.

Messages that share every frame's turn all arrive at the end. One after the other they arrive just
as late on the whole, but the first of four in a quarter of the time: an all-reduce, which goes on
with what has arrived, ends a fifth earlier.
"""
_LARGEST_CREDIT = 1 << 40


@dataclass(slots=True, eq=False)
class _Bulk:
    """The tensor bytes of one message, as far as they have not been handed out."""

    stream: int
    views: deque[memoryview]
    credit: int = limits.STREAM_CREDIT_BYTES
    offset: int = 0
    turn_bytes: int = 0  # sent since its turn began

    @property
    def is_small(self) -> bool:
        """Return whether it is no more than a batch of small frames."""
        return sum(view.nbytes for view in self.views) <= _BATCH_BYTES

    def take(self, num_bytes: int) -> memoryview:
        """Hand out up to `num_bytes` of the current tensor."""
        view = self.views.popleft()
        if view.nbytes > num_bytes:
            self.views.appendleft(view[num_bytes:])
            view = view[:num_bytes]
        self.offset += view.nbytes
        self.turn_bytes += view.nbytes
        self.credit -= view.nbytes
        return view


class Outbox:
    """Frames and tensor bytes that wait to be sent on one link.

    Args:
        on_sent: told the stream of a message when all of it has been handed out.
    """

    def __init__(self, on_sent: Callable[[int], None]) -> None:
        self.chunk_bytes = limits.CHUNK_BYTES
        self._on_sent = on_sent
        self._control: deque[bytes] = deque()
        self._heads: dict[int, bytes] = {}  # first frames by stream, oldest first
        self._bulks: dict[int, _Bulk] = {}
        self._turns: deque[_Bulk] = deque()  # those that may send, next first
        self._link_credit = limits.LINK_CREDIT_BYTES

    def control(self, frame: bytes) -> None:
        """Queue a frame that overtakes all messages."""
        self._control.append(frame)

    def message(self, stream: int, head: bytes, views: list[memoryview]) -> None:
        """Queue a message: its first frame, and the bytes of its tensors (flat, not empty)."""
        self._heads[stream] = head
        if views:
            self._bulks[stream] = _Bulk(stream, deque(views))

    def drop(self, stream: int) -> bool:
        """Forget what is queued of a message; return whether its first frame had been sent."""
        bulk = self._bulks.pop(stream, None)
        if bulk is not None and bulk in self._turns:
            self._turns.remove(bulk)
        return self._heads.pop(stream, None) is None

    def grant(self, stream: int, num_bytes: int) -> None:
        """Add credit to a stream, or to the link (0); a stream that is gone needs none.

        Raises:
            RemoteProtocolError: the sum is absurd.
        """
        if stream == 0:
            self._link_credit = _checked_sum(self._link_credit, num_bytes)
            return
        bulk = self._bulks.get(stream)
        if bulk is None:
            return
        was_blocked = bulk.credit <= 0
        bulk.credit = _checked_sum(bulk.credit, num_bytes)
        if was_blocked and bulk.credit > 0 and stream not in self._heads:
            bulk.turn_bytes = 0
            self._turns.append(bulk)

    @property
    def wants_to_send(self) -> bool:
        """Return whether `next_buffers` has something."""
        return bool(self._control or self._heads or (self._turns and self._link_credit > 0))

    def next_buffers(self) -> list[memoryview]:
        """Return what to send now, as one unit; empty if nothing may be sent."""
        small = bytearray()
        while self._control and len(small) < _BATCH_BYTES:
            small += self._control.popleft()
        while self._heads and len(small) < _BATCH_BYTES:
            self._take_head(small)
        if self._turns and self._link_credit > 0 and not self._heads:
            return self._take_chunk(small)
        return [memoryview(small)] if small else []

    def _take_head(self, small: bytearray) -> None:
        stream = next(iter(self._heads))
        small += self._heads.pop(stream)
        bulk = self._bulks.get(stream)
        if bulk is None:
            self._on_sent(stream)
        elif bulk.is_small:
            self._turns.insert(self._num_small_first(), bulk)
        else:
            self._turns.append(bulk)

    def _num_small_first(self) -> int:
        """Return how many small messages are next: a later one does not overtake them."""
        return sum(1 for _ in takewhile(lambda bulk: bulk.is_small, self._turns))

    def _take_chunk(self, small: bytearray) -> list[memoryview]:
        """Add one DATA frame of the stream whose turn it is, and END behind its last one."""
        bulk = self._turns.popleft()
        offset = bulk.offset
        chunk = bulk.take(min(self.chunk_bytes, bulk.credit, self._link_credit))
        self._link_credit -= chunk.nbytes
        small += data_frame(bulk.stream, offset, chunk.nbytes)
        if not bulk.views:
            del self._bulks[bulk.stream]
            self._on_sent(bulk.stream)
            end = memoryview(encode_frame(FrameType.END, bulk.stream))
            return [memoryview(small), chunk, end]
        if bulk.credit > 0:
            self._next_turn(bulk)
        return [memoryview(small), chunk]

    def _next_turn(self, bulk: _Bulk) -> None:
        """Let a stream go on with its turn, or queue behind the others."""
        if bulk.turn_bytes < _TURN_BYTES:
            self._turns.appendleft(bulk)
        else:
            bulk.turn_bytes = 0
            self._turns.append(bulk)


def _checked_sum(credit: int, num_bytes: int) -> int:
    if credit + num_bytes > _LARGEST_CREDIT:
        raise RemoteProtocolError(f"a credit of {credit + num_bytes} bytes")
    return credit + num_bytes
