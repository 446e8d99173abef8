"""What a message is: a small body of plain values, and tensors as bytes with a description."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgpack

from distqatd.base.errors import LocalProtocolError, RemoteProtocolError
from distqatd.wire import limits

DTYPES: dict[str, int] = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
"""The element types that may travel, named as in torch, and their size in bytes."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Describes the bytes of one tensor as they travel.

    `shape` and `dtype` always multiply to `nbytes`. A codec other than `raw` says how the
    receiver gets the values back; its own tensors (scales, ...) travel beside it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    codec: str = "raw"


@dataclass(frozen=True, slots=True)
class WireTensor:
    """A tensor's description and its C-contiguous bytes. Does not own or copy them."""

    spec: TensorSpec
    data: memoryview


@dataclass(frozen=True, slots=True)
class Message:
    """What a request or a response carries.

    `body` holds None, bool, int, float, str, bytes, and lists and dicts (with str keys) of them;
    its size, depth and number of items are bounded by `wire.limits`. Tuples arrive as lists.
    """

    body: Mapping[str, Any]
    tensors: tuple[WireTensor, ...] = ()

    @property
    def tensor_bytes(self) -> int:
        """Return how many bytes all tensors have."""
        return sum(tensor.spec.nbytes for tensor in self.tensors)

    def flat_views(self) -> list[memoryview]:
        """Return the bytes of the tensors that have any."""
        return [tensor.data.cast("B") for tensor in self.tensors if tensor.spec.nbytes]


Sink = Callable[[TensorSpec], memoryview]
"""Where to receive a tensor: a writable buffer of exactly `spec.nbytes` bytes.

Called once per tensor after all checks and budgets; a DistqatError refuses the message.
"""


def spec_fault(spec: TensorSpec) -> str | None:
    """Return what is wrong with a tensor's description, or None."""
    if spec.dtype not in DTYPES:
        return f"dtype {spec.dtype!r} is not one of {', '.join(DTYPES)}"
    if max(len(spec.name), len(spec.codec)) > limits.MAX_NAME_LENGTH:
        return "the tensor's name or codec is too long"
    if len(spec.shape) > limits.MAX_NDIM or any(size < 0 for size in spec.shape):
        return f"shape {spec.shape} has too many dimensions or a negative one"
    if (
        spec.nbytes > limits.MAX_TENSOR_BYTES
        or max(spec.shape, default=0) > limits.MAX_TENSOR_BYTES
    ):
        return f"shape {spec.shape} is too large"
    expected = math.prod(spec.shape) * DTYPES[spec.dtype]
    if expected != spec.nbytes:
        return f"{spec.dtype}{list(spec.shape)} has {expected} bytes, not {spec.nbytes}"
    return None


def check_message(message: Message) -> None:
    """Check the tensors of a message that we are about to send.

    Raises:
        LocalProtocolError: a description is wrong, or does not fit its bytes.
    """
    if len(message.tensors) > limits.MAX_TENSORS:
        raise LocalProtocolError(f"{len(message.tensors)} tensors in one message")
    for tensor in message.tensors:
        fault = spec_fault(tensor.spec)
        if fault is None and tensor.data.nbytes != tensor.spec.nbytes:
            fault = f"the buffer has {tensor.data.nbytes} bytes, not {tensor.spec.nbytes}"
        if fault is not None:
            raise LocalProtocolError(f"tensor {tensor.spec.name!r}: {fault}")


def pack_body(body: Mapping[str, Any]) -> bytes:
    """Encode a body.

    Raises:
        LocalProtocolError: it holds something that may not travel, or is too large.
    """
    if not body:
        return b""
    try:
        data: bytes = msgpack.packb(body)
    except (TypeError, ValueError, OverflowError) as error:
        raise LocalProtocolError(f"a message body cannot be encoded: {error}") from error
    if len(data) > limits.MAX_PAYLOAD_BYTES:
        text = f"a message body of {len(data)} bytes is above {limits.MAX_PAYLOAD_BYTES}"
        raise LocalProtocolError(f"{text}; send it as a tensor")
    return data


def unpack_body(data: bytes | bytearray | memoryview) -> dict[str, Any]:
    """Decode a body that a peer sent.

    Raises:
        RemoteProtocolError: it is not a bounded msgpack map.
    """
    if not len(data):
        return {}
    body = unpack(data)
    if not isinstance(body, dict):
        raise RemoteProtocolError("a message body is not a map")
    return body


def unpack(data: bytes | bytearray | memoryview) -> Any:
    """Decode msgpack from a peer, without extension types, with bounded depth and items.

    Raises:
        RemoteProtocolError: it is not that.
    """
    try:
        value = msgpack.unpackb(
            data,
            max_array_len=limits.MAX_ITEMS,
            max_map_len=limits.MAX_ITEMS,
            ext_hook=_refuse_extension,
        )
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise RemoteProtocolError(f"not valid msgpack: {type(error).__name__}") from error
    _check_size(value)
    return value


def _refuse_extension(code: int, data: bytes) -> object:
    raise ValueError(f"extension type {code} of {len(data)} bytes")


def _check_size(value: object) -> None:
    """Refuse what is nested deeply or has many items: a byte can unfold to 64 bytes in memory."""
    level = [value] if type(value) in _CONTAINERS else []
    num_items = 0
    for _ in range(limits.MAX_DEPTH):
        if not level:
            return
        items = [item for container in level for item in _items(container)]
        num_items += len(items)
        if num_items > limits.MAX_ITEMS:
            raise RemoteProtocolError(f"more than {limits.MAX_ITEMS} items in one body")
        level = [item for item in items if type(item) in _CONTAINERS]
    raise RemoteProtocolError(f"nested deeper than {limits.MAX_DEPTH}")


_CONTAINERS = frozenset({list, dict, msgpack.Timestamp})


def _items(value: Any) -> Iterable[object]:
    if type(value) is list:
        return value
    if type(value) is not dict:
        raise RemoteProtocolError("a timestamp may not travel")
    for key in value:
        if type(key) is not str:
            raise RemoteProtocolError("a key of a map is not text")
    return value.values()
