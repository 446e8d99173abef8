"""The headers of the frame types, checked field by field when they come in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from distqatd.base.errors import LocalProtocolError, RemoteProtocolError
from distqatd.wire import limits
from distqatd.wire.frame import FrameType, encode_frame
from distqatd.wire.payload import TensorSpec, spec_fault

MAX_TIMEOUT_MS = 24 * 3600 * 1000
"""Longest deadline of a request."""

_MAX_SEQUENCE = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class RequestHead:
    """First frame of a request.

    Attributes:
        method: what is asked.
        timeout_ms: how long the caller waits; relative, since clocks differ.
        sequence: number of the request at this caller, the same when it is sent again.
        acked: the caller has the answers to all requests below this number.
        specs: the tensors that follow in DATA frames.
        is_retry: it may have been received before, on a link that broke.
    """

    method: str
    timeout_ms: int
    sequence: int
    acked: int
    specs: tuple[TensorSpec, ...]
    is_retry: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """An ERROR or GOAWAY: the `wire_code` of an error, and words for people."""

    code: str
    text: str


def request_frame(stream: int, head: RequestHead, body: bytes) -> bytes:
    """Encode a REQUEST without its DATA.

    Raises:
        LocalProtocolError: the header is too large.
    """
    header = msgpack.packb(
        [
            head.method,
            head.timeout_ms,
            head.sequence,
            head.acked,
            _pack_specs(head.specs),
            head.is_retry,
        ]
    )
    return _first_frame(FrameType.REQUEST, stream, header, body)


def response_frame(stream: int, specs: Sequence[TensorSpec], body: bytes) -> bytes:
    """Encode a RESPONSE without its DATA.

    Raises:
        LocalProtocolError: the header is too large.
    """
    return _first_frame(FrameType.RESPONSE, stream, msgpack.packb(_pack_specs(specs)), body)


def failure_frame(kind: FrameType, stream: int, failure: Failure) -> bytes:
    """Encode an ERROR or a GOAWAY; a long text is cut."""
    text = failure.text[: limits.MAX_ERROR_TEXT].encode(errors="replace").decode()
    return encode_frame(kind, stream, msgpack.packb([failure.code, text]))


def number_frame(kind: FrameType, stream: int, number: int) -> bytes:
    """Encode a frame whose header is one number: WINDOW, PING, PONG."""
    return encode_frame(kind, stream, msgpack.packb(number))


def data_frame(stream: int, offset: int, payload_len: int) -> bytes:
    """Encode the prefix of a DATA frame; `offset` counts in all tensor bytes of the message."""
    return encode_frame(FrameType.DATA, stream, msgpack.packb(offset), payload_len)


def parse_request(head: Any) -> RequestHead:
    """Check the header of a REQUEST.

    Raises:
        RemoteProtocolError: it is not one.
    """
    if type(head) is not list or len(head) != 6:
        raise RemoteProtocolError("a REQUEST header is not a list of 6")
    method, timeout_ms, sequence, acked, specs, is_retry = head
    if type(method) is not str or not 0 < len(method) <= limits.MAX_NAME_LENGTH:
        raise RemoteProtocolError("a REQUEST has no method name")
    if type(is_retry) is not bool:
        raise RemoteProtocolError("a REQUEST does not say whether it is a retry")
    return RequestHead(
        method,
        parse_number(timeout_ms, MAX_TIMEOUT_MS),
        parse_number(sequence, _MAX_SEQUENCE),
        parse_number(acked, _MAX_SEQUENCE),
        parse_specs(specs),
        is_retry,
    )


def parse_specs(items: Any) -> tuple[TensorSpec, ...]:
    """Check the descriptions of a message's tensors.

    Raises:
        RemoteProtocolError: a type, a size or a product is wrong.
    """
    if type(items) is not list or len(items) > limits.MAX_TENSORS:
        raise RemoteProtocolError("the tensors of a message are not a short list")
    return tuple(_parse_spec(item) for item in items)


def parse_failure(head: Any) -> Failure:
    """Check the header of an ERROR or GOAWAY.

    Raises:
        RemoteProtocolError: it is not one.
    """
    if type(head) is not list or len(head) != 2 or not all(type(item) is str for item in head):
        raise RemoteProtocolError("an ERROR or GOAWAY header is not two texts")
    code, text = head
    if len(code) > limits.MAX_NAME_LENGTH or len(text) > limits.MAX_ERROR_TEXT:
        raise RemoteProtocolError("the text of an ERROR or GOAWAY is too long")
    return Failure(code, text)


def parse_number(value: Any, largest: int) -> int:
    """Check that `value` is an int from 0 to `largest`.

    Raises:
        RemoteProtocolError: it is not.
    """
    if type(value) is not int or not 0 <= value <= largest:
        raise RemoteProtocolError(f"expected a number from 0 to {largest}")
    return value


def _pack_specs(specs: Sequence[TensorSpec]) -> list[list[Any]]:
    return [[spec.name, spec.dtype, spec.shape, spec.nbytes, spec.codec] for spec in specs]


def _parse_spec(item: Any) -> TensorSpec:
    if type(item) is not list or len(item) != 5:
        raise RemoteProtocolError("a tensor's description is not a list of 5")
    name, dtype, shape, nbytes, codec = item
    if type(name) is not str or type(dtype) is not str or type(codec) is not str:
        raise RemoteProtocolError("a tensor's name, dtype or codec is not text")
    if type(shape) is not list or type(nbytes) is not int:
        raise RemoteProtocolError(f"tensor {name[:40]!r}: no shape or size")
    if not all(type(size) is int for size in shape):
        raise RemoteProtocolError(f"tensor {name[:40]!r}: a dimension is not a number")
    spec = TensorSpec(name, dtype, tuple(shape), nbytes, codec)
    fault = spec_fault(spec)
    if fault is not None:
        raise RemoteProtocolError(f"tensor {name[:40]!r}: {fault[:200]}")
    return spec


def _first_frame(kind: FrameType, stream: int, header: bytes, body: bytes) -> bytes:
    if len(header) > limits.MAX_HEADER_BYTES:
        raise LocalProtocolError(f"a {kind.name} header of {len(header)} bytes; use fewer tensors")
    return encode_frame(kind, stream, header, len(body)) + body
