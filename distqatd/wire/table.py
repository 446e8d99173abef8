"""The open streams of a link, and which numbers have been used: ours, and the peer's."""

from distqatd.base.errors import RemoteProtocolError
from distqatd.wire import limits
from distqatd.wire.payload import Sink
from distqatd.wire.streams import State, Stream


class StreamTable:
    """Streams by number. The side that dialled uses odd numbers, the other even ones.

    Numbers only grow; some may be left out. So a number that has been passed belonged to a
    stream that is closed, and what still comes for it is dropped.
    """

    def __init__(self, *, dialer: bool) -> None:
        self._streams: dict[int, Stream] = {}
        self._next_ours = 1 if dialer else 2
        self._last_theirs = 0
        self._num_theirs = 0

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def num_theirs(self) -> int:
        """Return how many streams that the peer opened are open."""
        return self._num_theirs

    @property
    def next_ours(self) -> int:
        """Return the number that our next stream will have."""
        return self._next_ours

    @property
    def exhausted(self) -> bool:
        """Return whether we have used up our numbers."""
        return self._next_ours > limits.MAX_STREAM_ID

    def open_ours(self, sink: Sink | None) -> Stream:
        """Add a stream of ours."""
        stream = Stream(self._next_ours, State.SENDING, sink)
        self._streams[stream.number] = stream
        self._next_ours += 2
        return stream

    def claim_theirs(self, number: int) -> None:
        """Note that the peer used a number for a new stream.

        Raises:
            RemoteProtocolError: it is not a new number of the peer's.
        """
        if self._is_ours(number) or number <= self._last_theirs:
            raise RemoteProtocolError(f"REQUEST on stream {number}, after {self._last_theirs}")
        self._last_theirs = number

    def add_theirs(self, stream: Stream) -> None:
        """Add a stream whose number has been claimed."""
        self._streams[stream.number] = stream
        self._num_theirs += 1

    def get(self, number: int) -> Stream | None:
        """Return an open stream."""
        return self._streams.get(number)

    def known(self, number: int) -> Stream | None:
        """Return the open stream that a frame is for, or None if it has been closed.

        Raises:
            RemoteProtocolError: there never was one.
        """
        stream = self._streams.get(number)
        if stream is None:
            ours = self._is_ours(number)
            if number >= self._next_ours if ours else number > self._last_theirs:
                raise RemoteProtocolError(f"a frame on stream {number}, which was never opened")
        return stream

    def forget(self, stream: Stream) -> None:
        """Remove a stream, and release what is reserved for a message that is not complete."""
        if stream.incoming is not None:
            stream.incoming.reservation.release()
        del self._streams[stream.number]
        if not self._is_ours(stream.number):
            self._num_theirs -= 1

    def clear(self) -> None:
        """Remove all streams: the link is gone."""
        for stream in list(self._streams.values()):
            self.forget(stream)

    def _is_ours(self, number: int) -> bool:
        return number % 2 == self._next_ours % 2
