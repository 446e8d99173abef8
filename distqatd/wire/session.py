"""One link's protocol, without I/O: bytes in, events out; messages in, bytes out.

The shell (`net.connection`) reads into `buffer()` and iterates `received(n)`, and sends what
`next_buffers()` returns until it is empty. A RemoteProtocolError ends the link: what follows in
the byte stream cannot be trusted.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgpack

from distqatd.base.errors import DistqatError, Overloaded, RemoteProtocolError
from distqatd.base.ids import PeerId
from distqatd.wire import limits
from distqatd.wire.budget import Budget, ReceiveCredit
from distqatd.wire.events import (
    Event,
    GoAwayReceived,
    HelloReceived,
    PongReceived,
    RequestCancelled,
    RequestFailed,
    RequestReceived,
    ResponseReceived,
)
from distqatd.wire.frame import Frame, FrameDecoder, FrameType, encode_frame
from distqatd.wire.messages import (
    Failure,
    RequestHead,
    failure_frame,
    number_frame,
    parse_failure,
    parse_number,
    parse_request,
    parse_specs,
    request_frame,
    response_frame,
)
from distqatd.wire.outbox import Outbox
from distqatd.wire.payload import Message, Sink, pack_body, unpack_body
from distqatd.wire.streams import State, Step, Stream, receive
from distqatd.wire.table import StreamTable

_MAX_NONCE = (1 << 63) - 1


Admit = Callable[[RequestHead, int], Sink | None]
"""Decides on a request from its first frame and total size: the sink, or a DistqatError."""


class Session:
    """State of one link.

    Args:
        peer: who is at the other end, proven by the transport; budgets are kept by it.
        dialer: whether we made the connection; decides who uses odd stream numbers.
        budget: where memory for incoming messages is reserved.
        admit: asked about every request before anything is allocated for it.
    """

    def __init__(self, peer: PeerId, *, dialer: bool, budget: Budget, admit: Admit) -> None:
        self._peer = peer
        self._budget = budget
        self._admit = admit
        self._decoder = FrameDecoder(self._place)
        self._outbox = Outbox(self._sent)
        self._streams = StreamTable(dialer=dialer)
        self._heads: dict[int, RequestHead] = {}  # of requests that are arriving
        self._credit = ReceiveCredit(limits.LINK_CREDIT_BYTES)
        self._said_hello = False
        self._refused: Event | None = None

    @property
    def num_streams(self) -> int:
        """Return how many streams are open, of both sides."""
        return len(self._streams)

    @property
    def exhausted(self) -> bool:
        """Return whether this link has used up its stream numbers."""
        return self._streams.exhausted

    @property
    def wants_to_send(self) -> bool:
        """Return whether `next_buffers` has something."""
        return self._outbox.wants_to_send

    def set_chunk_bytes(self, num_bytes: int) -> None:
        """Choose the size of DATA frames: small on a slow link."""
        self._outbox.chunk_bytes = num_bytes

    def buffer(self) -> memoryview:
        """Return where received bytes must be written next."""
        return self._decoder.buffer()

    def received(self, num_bytes: int) -> Iterator[Event]:
        """Yield what `num_bytes` more bytes in `buffer()` mean; handle each before the next.

        Raises:
            RemoteProtocolError: the peer broke the protocol; close the link.
        """
        for frame in self._decoder.received(num_bytes):
            event = self._handle(frame)
            if event is not None:
                yield event

    def next_buffers(self) -> list[memoryview]:
        """Return what to send now, as one unit, never torn; empty if there is nothing."""
        return self._outbox.next_buffers()

    def hello(self, fields: Mapping[str, Any]) -> None:
        """Queue our HELLO; it must be the first thing sent."""
        self._outbox.control(encode_frame(FrameType.HELLO, 0, msgpack.packb(fields)))

    def ping(self, nonce: int) -> None:
        """Queue a PING."""
        self._outbox.control(number_frame(FrameType.PING, 0, nonce))

    def go_away(self, failure: Failure) -> None:
        """Queue a GOAWAY: we open no more streams."""
        self._outbox.control(failure_frame(FrameType.GOAWAY, 0, failure))

    def request(self, head: RequestHead, message: Message, sink: Sink | None) -> int:
        """Queue a request and return its stream.

        Raises:
            LocalProtocolError: the message may not travel.
        """
        frame = request_frame(self._streams.next_ours, head, pack_body(message.body))
        number = self._streams.open_ours(sink).number
        self._outbox.message(number, frame, message.flat_views())
        return number

    def respond(self, number: int, message: Message) -> None:
        """Queue the answer to a request; nothing happens if the peer has given it up.

        Raises:
            LocalProtocolError: the message may not travel; the request is still open.
        """
        stream = self._streams.get(number)
        if stream is None:
            return
        specs = [tensor.spec for tensor in message.tensors]
        frame = response_frame(number, specs, pack_body(message.body))
        stream.step(Step.SENT_RESPONSE)
        self._outbox.message(number, frame, message.flat_views())

    def fail(self, number: int, failure: Failure) -> None:
        """Queue an error as the answer to a request, unless the peer has given it up."""
        stream = self._streams.get(number)
        if stream is None:
            return
        stream.step(Step.GIVE_UP)
        self._streams.forget(stream)
        self._outbox.drop(number)
        self._outbox.control(failure_frame(FrameType.ERROR, number, failure))

    def cancel(self, number: int) -> bool:
        """Give up our request; whatever is queued of it is dropped.

        Returns:
            Whether its answer was being received at this moment: a buffer from `buffer()` that
            is in use must then not be written to any more.
        """
        stream = self._streams.get(number)
        if stream is None:
            return False
        stream.step(Step.GIVE_UP)
        self._streams.forget(stream)
        if self._outbox.drop(number):
            self._outbox.control(encode_frame(FrameType.CANCEL, number))
        filling = self._decoder.filling
        if filling is None or filling.stream != number:
            return False
        self._decoder.discard_payload()
        return True

    def close(self) -> None:
        """Release what is reserved for messages that will never be complete."""
        self._streams.clear()

    def _place(self, frame: Frame) -> memoryview | None:
        """Decide where a payload goes, before it is received: all checks happen here."""
        self._check_hello(frame)
        if frame.kind is FrameType.DATA:
            return self._place_data(frame)
        self._begin(frame)
        return None

    def _handle(self, frame: Frame) -> Event | None:
        self._check_hello(frame)
        match frame.kind:
            case FrameType.DATA:
                self._data_arrived(frame)
                return None
            case FrameType.REQUEST | FrameType.RESPONSE:
                if not frame.payload_len:
                    self._begin(frame)
                return self._body_arrived(frame)
            case FrameType.END:
                return self._end_arrived(frame.stream)
            case FrameType.ERROR:
                return self._error_arrived(frame)
            case FrameType.CANCEL:
                return self._cancel_arrived(frame.stream)
            case _:
                return self._handle_link_frame(frame)

    def _handle_link_frame(self, frame: Frame) -> Event | None:
        match frame.kind:
            case FrameType.WINDOW:
                self._streams.known(frame.stream)
                num_bytes = parse_number(frame.head, _MAX_NONCE)
                self._outbox.grant(frame.stream, num_bytes)
                return None
            case FrameType.PING:
                nonce = parse_number(frame.head, _MAX_NONCE)
                self._outbox.control(number_frame(FrameType.PONG, 0, nonce))
                return None
            case FrameType.PONG:
                return PongReceived(parse_number(frame.head, _MAX_NONCE))
            case FrameType.GOAWAY:
                return GoAwayReceived(parse_failure(frame.head))
            case _:
                return self._hello_arrived(frame)

    def _check_hello(self, frame: Frame) -> None:
        if not self._said_hello and frame.kind not in (FrameType.HELLO, FrameType.GOAWAY):
            raise RemoteProtocolError(f"{frame.kind.name} before HELLO")

    def _hello_arrived(self, frame: Frame) -> Event:
        if self._said_hello or type(frame.head) is not dict:
            raise RemoteProtocolError("a second HELLO, or one without fields")
        self._said_hello = True
        return HelloReceived(frame.head)

    def _begin(self, frame: Frame) -> None:
        """Take the first frame of a message: check, reserve, allocate; or refuse it."""
        if frame.kind is FrameType.REQUEST:
            self._begin_request(frame)
        else:
            self._begin_response(frame)

    def _begin_request(self, frame: Frame) -> None:
        number = frame.stream
        self._streams.claim_theirs(number)
        head = parse_request(frame.head)
        stream = Stream(number, State.ACCEPTING)
        try:
            if self._streams.num_theirs >= limits.MAX_INCOMING_STREAMS:
                raise Overloaded(f"{self._streams.num_theirs} requests are open on this link")
            num_bytes = frame.payload_len + sum(spec.nbytes for spec in head.specs)
            stream.sink = self._admit(head, num_bytes)
            room = self._budget.reserve(self._peer, num_bytes)
            stream.incoming = receive(head.specs, stream.sink, room)
        except DistqatError as error:
            failure = Failure(error.wire_code, str(error))
            self._outbox.control(failure_frame(FrameType.ERROR, number, failure))
            return
        self._streams.add_theirs(stream)
        self._heads[number] = head

    def _begin_response(self, frame: Frame) -> None:
        stream = self._streams.known(frame.stream)
        specs = parse_specs(frame.head)
        if stream is None:
            return
        stream.step(Step.GOT_RESPONSE)
        try:
            num_bytes = frame.payload_len + sum(spec.nbytes for spec in specs)
            room = self._budget.reserve(self._peer, num_bytes)
            stream.incoming = receive(specs, stream.sink, room)
        except DistqatError as error:
            self.cancel(stream.number)
            failure = Failure(error.wire_code, str(error))
            self._refused = RequestFailed(stream.number, failure)

    def _body_arrived(self, frame: Frame) -> Event | None:
        stream = self._streams.get(frame.stream)
        if stream is None or stream.incoming is None:
            refused, self._refused = self._refused, None
            return refused
        stream.incoming.body = unpack_body(frame.payload)
        return None if stream.incoming.total_bytes else self._end_arrived(frame.stream)

    def _place_data(self, frame: Frame) -> memoryview | None:
        self._credit.take(frame.payload_len)
        offset = parse_number(frame.head, limits.MAX_TENSOR_BYTES * limits.MAX_TENSORS)
        stream = self._streams.known(frame.stream)
        if stream is None:
            return None
        stream.step(Step.GOT_DATA)
        stream.credit.take(frame.payload_len)
        return stream.expect().place(offset, frame.payload_len)

    def _data_arrived(self, frame: Frame) -> None:
        self._grant(0, self._credit.arrived(frame.payload_len))
        stream = self._streams.get(frame.stream)
        if stream is not None and not stream.expect().is_complete:
            self._grant(stream.number, stream.credit.arrived(frame.payload_len))

    def _grant(self, number: int, num_bytes: int) -> None:
        if num_bytes:
            self._outbox.control(number_frame(FrameType.WINDOW, number, num_bytes))

    def _end_arrived(self, number: int) -> Event | None:
        stream = self._streams.known(number)
        if stream is None:
            return None
        stream.step(Step.GOT_END)
        incoming = stream.expect()
        message = Message(incoming.body, incoming.tensors())
        if stream.state is State.SERVING:
            stream.incoming = None  # the reservation is the shell's from now on
            head = self._heads.pop(number)
            return RequestReceived(number, head, message, incoming.reservation)
        self._streams.forget(stream)
        return ResponseReceived(number, message)

    def _error_arrived(self, frame: Frame) -> Event | None:
        stream = self._streams.known(frame.stream)
        failure = parse_failure(frame.head)
        if stream is None:
            return None
        stream.step(Step.GOT_ERROR)
        self._outbox.drop(stream.number)
        self._streams.forget(stream)
        return RequestFailed(stream.number, failure)

    def _cancel_arrived(self, number: int) -> Event | None:
        stream = self._streams.known(number)
        if stream is None:
            return None
        was_served = stream.state is not State.ACCEPTING
        stream.step(Step.GOT_CANCEL)
        self._heads.pop(number, None)
        self._outbox.drop(number)
        self._streams.forget(stream)
        return RequestCancelled(number) if was_served else None

    def _sent(self, number: int) -> None:
        """Note that all of a message has been handed to the shell."""
        stream = self._streams.get(number)
        if stream is None:
            return
        stream.step(Step.SENT_ALL)
        if stream.state is State.CLOSED:
            self._streams.forget(stream)
