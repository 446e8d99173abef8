"""Every byte and count limit of the wire, in one place. All are checked before allocating."""

KIB = 1 << 10
MIB = 1 << 20

PROTOCOL_VERSION = 1

MAX_HEADER_BYTES = (64 * KIB) - 1
"""Largest msgpack header of a frame; the length field has 16 bits."""

MAX_PAYLOAD_BYTES = MIB
"""Largest payload of one frame; tensors are cut into frames of at most this."""

CHUNK_BYTES = MIB
"""Payload of a DATA frame on a fast link: fewer frames, less work per byte."""

SLOW_CHUNK_BYTES = 256 * KIB
"""Payload of a DATA frame on a slow link, so that a small message waits 10 ms, not 40 ms."""

MAX_DEPTH = 16
"""Nesting of a message body."""

MAX_ITEMS = 1 << 14
"""Scalars and containers in a message body; bounds what a small body can unfold to in memory."""

MAX_NAME_LENGTH = 256
"""Characters in a method, tensor or codec name."""

MAX_ERROR_TEXT = 2000
"""Characters of text in an ERROR or GOAWAY frame."""

MAX_TENSORS = 1024
"""Tensors in one message."""

MAX_NDIM = 8
"""Dimensions of one tensor."""

MAX_TENSOR_BYTES = 1 << 40
"""Bytes of one tensor, before any budget is asked; keeps products small."""

STREAM_CREDIT_BYTES = 4 * MIB
"""DATA bytes a sender may have on the way per stream: 300 Mbit/s x 80 ms needs 3 MB."""

LINK_CREDIT_BYTES = 32 * MIB
"""DATA bytes a sender may have on the way per link."""

MAX_OUTGOING_STREAMS = 128
"""Requests we keep open on one link; a caller above it waits for a free one."""

MAX_INCOMING_STREAMS = 256
"""Requests of one peer that we serve at once; more are refused as overloaded."""

MAX_STREAM_ID = (1 << 31) - 1
"""A link that has used this many ids is replaced by a new one."""
