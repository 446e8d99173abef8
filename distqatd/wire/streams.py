"""The life of one stream: a table of what may happen when, and a message being received.

A stream is one request and its answer. Theory of operation: the side that asks opens it in
SENDING, the side that is asked in ACCEPTING. A message is a first frame (REQUEST or RESPONSE)
and, if it announces tensor bytes, DATA frames in order and an END. Whatever is not in the table
is a mistake: of the peer, if a frame caused it; ours, if we did. A closed stream is forgotten:
frames that were on the way to it are recognised by their old number and dropped.
"""

from dataclasses import dataclass, field
from enum import IntEnum, auto

from distqatd.base.errors import LocalProtocolError, RemoteProtocolError
from distqatd.wire import limits
from distqatd.wire.budget import ReceiveCredit, Reservation
from distqatd.wire.payload import Sink, TensorSpec, WireTensor


class State(IntEnum):
    """Where a stream is."""

    SENDING = auto()  # asker: the request is on its way
    WAITING = auto()  # asker: all of it has been handed to the link
    RECEIVING = auto()  # asker: the response is coming
    ACCEPTING = auto()  # asked: the request is coming
    SERVING = auto()  # asked: the handler works
    RESPONDING = auto()  # asked: the response is on its way
    CLOSED = auto()


class Step(IntEnum):
    """What can happen to a stream: SENT_* and GIVE_UP by us, GOT_* by a frame."""

    SENT_ALL = auto()
    SENT_RESPONSE = auto()
    GIVE_UP = auto()
    GOT_RESPONSE = auto()
    GOT_DATA = auto()
    GOT_END = auto()
    GOT_ERROR = auto()
    GOT_CANCEL = auto()


TRANSITIONS: dict[tuple[State, Step], State] = {
    (State.SENDING, Step.SENT_ALL): State.WAITING,
    (State.SENDING, Step.GOT_ERROR): State.CLOSED,
    (State.SENDING, Step.GIVE_UP): State.CLOSED,
    (State.WAITING, Step.GOT_RESPONSE): State.RECEIVING,
    (State.WAITING, Step.GOT_ERROR): State.CLOSED,
    (State.WAITING, Step.GIVE_UP): State.CLOSED,
    (State.RECEIVING, Step.GOT_DATA): State.RECEIVING,
    (State.RECEIVING, Step.GOT_END): State.CLOSED,
    (State.RECEIVING, Step.GOT_ERROR): State.CLOSED,
    (State.RECEIVING, Step.GIVE_UP): State.CLOSED,
    (State.ACCEPTING, Step.GOT_DATA): State.ACCEPTING,
    (State.ACCEPTING, Step.GOT_END): State.SERVING,
    (State.ACCEPTING, Step.GOT_CANCEL): State.CLOSED,
    (State.ACCEPTING, Step.GIVE_UP): State.CLOSED,
    (State.SERVING, Step.SENT_RESPONSE): State.RESPONDING,
    (State.SERVING, Step.GOT_CANCEL): State.CLOSED,
    (State.SERVING, Step.GIVE_UP): State.CLOSED,
    (State.RESPONDING, Step.SENT_ALL): State.CLOSED,
    (State.RESPONDING, Step.GOT_CANCEL): State.CLOSED,
    (State.RESPONDING, Step.GIVE_UP): State.CLOSED,
}

_OURS = frozenset({Step.SENT_ALL, Step.SENT_RESPONSE, Step.GIVE_UP})


@dataclass(slots=True)
class Incoming:
    """A message that is being received, straight into its destination."""

    specs: tuple[TensorSpec, ...]
    views: list[memoryview]
    reservation: Reservation
    total_bytes: int
    body: dict[str, object] = field(default_factory=dict)
    received_bytes: int = 0
    _index: int = 0
    _offset: int = 0

    @property
    def is_complete(self) -> bool:
        """Return whether all announced bytes have been placed."""
        return self.received_bytes == self.total_bytes

    def place(self, offset: int, num_bytes: int) -> memoryview:
        """Return where a DATA frame goes.

        Raises:
            RemoteProtocolError: it is out of order or crosses the end of a tensor.
        """
        if offset != self.received_bytes:
            raise RemoteProtocolError(f"DATA at {offset}, expected at {self.received_bytes}")
        while self._index < len(self.views) and self._offset == self.specs[self._index].nbytes:
            self._index, self._offset = self._index + 1, 0
        if self._index == len(self.views):
            raise RemoteProtocolError("more DATA than was announced")
        if self._offset + num_bytes > self.specs[self._index].nbytes:
            raise RemoteProtocolError("DATA crosses the end of a tensor")
        view = self.views[self._index][self._offset : self._offset + num_bytes]
        self._offset += num_bytes
        self.received_bytes += num_bytes
        return view

    def tensors(self) -> tuple[WireTensor, ...]:
        """Return the tensors; all bytes must have arrived.

        Raises:
            RemoteProtocolError: some have not.
        """
        if not self.is_complete:
            raise RemoteProtocolError(
                f"END after {self.received_bytes} of {self.total_bytes} bytes of DATA"
            )
        return tuple(map(WireTensor, self.specs, self.views))


@dataclass(slots=True)
class Stream:
    """One open stream of a link."""

    number: int
    state: State
    sink: Sink | None = None
    incoming: Incoming | None = None
    credit: ReceiveCredit = field(default_factory=lambda: ReceiveCredit(limits.STREAM_CREDIT_BYTES))

    def step(self, step: Step) -> None:
        """Move on.

        Raises:
            ProtocolError: the table has no such step: Remote if a frame caused it, else Local.
        """
        following = TRANSITIONS.get((self.state, step))
        if following is None:
            kind = LocalProtocolError if step in _OURS else RemoteProtocolError
            raise kind(f"{step.name} on stream {self.number}, which is {self.state.name}")
        self.state = following

    def expect(self) -> Incoming:
        """Return the message that is being received.

        Raises:
            RemoteProtocolError: none is.
        """
        if self.incoming is None:
            raise RemoteProtocolError(f"stream {self.number} expects no message")
        return self.incoming


def receive(specs: tuple[TensorSpec, ...], sink: Sink | None, reservation: Reservation) -> Incoming:
    """Find a place for a message for whose body and tensors memory has been reserved.

    Raises:
        LocalProtocolError: the sink returned a buffer of another size or a read-only one.
        DistqatError: the sink refused.
    """
    try:
        views = [_allocate(spec, sink) for spec in specs]
    except BaseException:
        reservation.release()
        raise
    return Incoming(specs, views, reservation, sum(spec.nbytes for spec in specs))


def _allocate(spec: TensorSpec, sink: Sink | None) -> memoryview:
    return memoryview(bytearray(spec.nbytes)) if sink is None else _checked(spec, sink(spec))


def _checked(spec: TensorSpec, view: memoryview) -> memoryview:
    if view.nbytes != spec.nbytes or view.readonly or not view.c_contiguous:
        raise LocalProtocolError(
            f"the sink's buffer for {spec.name!r} has {view.nbytes} bytes, not {spec.nbytes}, "
            "or cannot be written to"
        )
    return view.cast("B") if spec.nbytes else memoryview(bytearray())
