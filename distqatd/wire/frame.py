"""The frame: a 16-byte prefix, a msgpack header, a raw payload; and its incremental decoder.

Prefix, little endian: magic u16 | version u8 | type u8 | flags u16 | header_len u16 |
payload_len u32 | stream u32. Flags are reserved and 0.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from distqatd.base.errors import RemoteProtocolError
from distqatd.wire import limits
from distqatd.wire.payload import unpack

MAGIC = 0x5144  # "DQ" in the byte order of the wire
PREFIX = struct.Struct("<HBBHHII")

_SCRATCH_BYTES = 128 * limits.KIB
_PEEK_BYTES = 16 * limits.KIB
_NOTHING = memoryview(b"")


class FrameType(IntEnum):
    """What a frame is; protocols.md, section 2."""

    HELLO = 1
    REQUEST = 2
    DATA = 3
    END = 4
    RESPONSE = 5
    ERROR = 6
    CANCEL = 7
    WINDOW = 8
    PING = 9
    PONG = 10
    GOAWAY = 11


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a frame of a type must have: `None` leaves it open."""

    on_stream: bool | None
    header: bool
    payload: bool | None


_RULES: dict[int, tuple[FrameType, _Rule]] = {
    kind.value: (kind, rule)
    for kind, rule in {
        FrameType.HELLO: _Rule(on_stream=False, header=True, payload=False),
        FrameType.REQUEST: _Rule(on_stream=True, header=True, payload=None),
        FrameType.DATA: _Rule(on_stream=True, header=True, payload=True),
        FrameType.END: _Rule(on_stream=True, header=False, payload=False),
        FrameType.RESPONSE: _Rule(on_stream=True, header=True, payload=None),
        FrameType.ERROR: _Rule(on_stream=True, header=True, payload=False),
        FrameType.CANCEL: _Rule(on_stream=True, header=False, payload=False),
        FrameType.WINDOW: _Rule(on_stream=None, header=True, payload=False),
        FrameType.PING: _Rule(on_stream=False, header=True, payload=False),
        FrameType.PONG: _Rule(on_stream=False, header=True, payload=False),
        FrameType.GOAWAY: _Rule(on_stream=False, header=True, payload=False),
    }.items()
}


@dataclass(slots=True)
class Frame:
    """One received frame.

    `head` is the decoded header. `payload` is there once all of it has arrived; where the
    decoder was not told a place for it, it is valid only until the decoder is used again.
    """

    kind: FrameType
    stream: int
    head: Any
    payload_len: int
    payload: memoryview = _NOTHING


Place = Callable[[Frame], memoryview | None]
"""Says where the payload of a frame goes: `payload_len` writable bytes, or None for anywhere."""


def encode_frame(kind: FrameType, stream: int, header: bytes = b"", payload_len: int = 0) -> bytes:
    """Return prefix and header; the caller sends `payload_len` bytes of payload behind it."""
    return (
        PREFIX.pack(MAGIC, limits.PROTOCOL_VERSION, kind, 0, len(header), payload_len, stream)
        + header
    )


class FrameDecoder:
    """Turns received bytes into frames; does no I/O and holds a bounded amount of memory.

    Read into `buffer()`, then iterate `received(n)`. Small frames pass through a scratch buffer,
    a large payload is received straight into the place that `place` returns for it.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._start = 0  # scratch[start:end] has been received and not been decoded
        self._end = 0
        self._frame: Frame | None = None  # its payload is being received into `_target`
        self._target = _NOTHING
        self._filled = 0
        self._bulk = False

    @property
    def filling(self) -> Frame | None:
        """Return the frame whose payload is being received, past the scratch buffer."""
        return self._frame

    def buffer(self) -> memoryview:
        """Return where the next bytes must be written; never empty."""
        if self._frame is not None:
            return self._target[self._filled :]
        if self._start:
            rest = bytes(self._scratch[self._start : self._end])
            self._scratch[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        if self._bulk:  # behind a large payload comes another one: leave it for its own place
            return self._scratch[self._end : max(self._end + 1, _PEEK_BYTES)]
        return self._scratch[self._end :]

    def received(self, num_bytes: int) -> Iterator[Frame]:
        """Yield the frames that `num_bytes` more bytes in `buffer()` complete.

        Handle each frame before asking for the next: `place` is called in between.

        Raises:
            RemoteProtocolError: the bytes are no frames; the link is of no use any more.
        """
        frame = self._frame
        if frame is None:
            self._end += num_bytes
        else:
            self._filled += num_bytes
            if self._filled < frame.payload_len:
                return
            yield self._filled_frame(frame)
        while (frame := self._next()) is not None:
            yield frame

    def discard_payload(self) -> None:
        """Receive the rest of the payload in progress into memory of our own.

        Buffers that `buffer()` returned before must not be written to any more.
        """
        if self._frame is not None:
            self._target = memoryview(bytearray(self._frame.payload_len))

    def feed(self, data: bytes | memoryview) -> Iterator[Frame]:
        """Copy `data` in, as if it had been received, and yield the frames it completes."""
        view = memoryview(data)
        while len(view):
            buffer = self.buffer()
            size = min(len(buffer), len(view))
            buffer[:size] = view[:size]
            view = view[size:]
            yield from self.received(size)

    def _filled_frame(self, frame: Frame) -> Frame:
        frame.payload = self._target
        self._frame = None
        self._target = _NOTHING
        return frame

    def _next(self) -> Frame | None:
        """Return the next frame that is complete in the scratch buffer."""
        available = self._end - self._start
        if available < PREFIX.size:
            return None
        prefix = PREFIX.unpack_from(self._scratch, self._start)
        kind = _check_prefix(prefix)
        header_len, payload_len, stream = prefix[4:]
        if available < PREFIX.size + header_len:
            return None
        header_start = self._start + PREFIX.size
        self._start = header_start + header_len
        head = unpack(self._scratch[header_start : self._start]) if header_len else None
        frame = Frame(kind, stream, head, payload_len)
        return frame if not payload_len else self._take_payload(frame)

    def _take_payload(self, frame: Frame) -> Frame | None:
        """Move what is there of a payload to its place; return the frame if it is complete."""
        target = self._place(frame)
        there = min(frame.payload_len, self._end - self._start)
        arrived = self._scratch[self._start : self._start + there]
        self._start += there
        self._bulk = frame.payload_len >= _SCRATCH_BYTES
        if target is None and there == frame.payload_len:
            frame.payload = arrived
            return frame
        if target is None:
            target = memoryview(bytearray(frame.payload_len))
        target[:there] = arrived
        self._frame, self._target, self._filled = frame, target, there
        return self._filled_frame(frame) if there == frame.payload_len else None


def _check_prefix(prefix: tuple[int, ...]) -> FrameType:
    magic, version, kind_number, flags, header_len, payload_len, stream = prefix
    if magic != MAGIC:
        raise RemoteProtocolError(f"not a frame: it starts with {magic:#06x}")
    if version != limits.PROTOCOL_VERSION:
        expected = limits.PROTOCOL_VERSION
        raise RemoteProtocolError(f"frame of protocol version {version}; we speak {expected}")
    known = _RULES.get(kind_number)
    if known is None or flags:
        raise RemoteProtocolError(f"unknown frame type {kind_number} or flags {flags:#06x}")
    kind, rule = known
    if payload_len > limits.MAX_PAYLOAD_BYTES:
        raise RemoteProtocolError(f"{kind.name} frame with {payload_len} bytes of payload")
    if bool(header_len) is not rule.header:
        raise RemoteProtocolError(f"{kind.name} frame with {header_len} bytes of header")
    if rule.payload is not None and bool(payload_len) is not rule.payload:
        raise RemoteProtocolError(f"{kind.name} frame with {payload_len} bytes of payload")
    if rule.on_stream is not None and bool(stream) is not rule.on_stream:
        raise RemoteProtocolError(f"{kind.name} frame on stream {stream}")
    return kind
