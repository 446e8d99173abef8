"""A datagram: `type u8 | message id 8 | mac 16 | msgpack body`, at most 1232 bytes.

The mac is keyed BLAKE2s over all the rest with the swarm's datagram key, and is checked before
anything is parsed. Whoever lacks the key gets no answer, learns nothing, and costs us microseconds.
"""

import hashlib
import hmac
from typing import Any

import msgpack

from distqatd.base.errors import LocalProtocolError, RemoteProtocolError
from distqatd.dht.limits import MAX_DATAGRAM

REQUEST = 0xD0
REPLY = 0xD1
HEADER_BYTES = 25
MAX_BODY = MAX_DATAGRAM - HEADER_BYTES


def seal(key: bytes, kind: int, message_id: bytes, body: bytes) -> bytes:
    """Return the datagram of a body.

    Raises:
        LocalProtocolError: it would be over 1232 bytes.
    """
    if len(body) > MAX_BODY:
        raise LocalProtocolError(f"a DHT message of {len(body)} B is over {MAX_BODY} B")
    head = bytes([kind]) + message_id
    return head + _mac(key, head, body) + body


def unseal(key: bytes, data: bytes) -> tuple[int, bytes, bytes]:
    """Return kind, message id and body of a datagram that a swarm member sealed.

    Raises:
        RemoteProtocolError: it is none.
    """
    if not HEADER_BYTES < len(data) <= MAX_DATAGRAM or data[0] not in (REQUEST, REPLY):
        raise RemoteProtocolError("not a datagram of this protocol")
    head, mac, body = data[:9], data[9:HEADER_BYTES], data[HEADER_BYTES:]
    if not hmac.compare_digest(_mac(key, head, body), mac):
        raise RemoteProtocolError("not a datagram of this swarm")
    return head[0], head[1:], body


def pack(fields: list[Any]) -> bytes:
    """Return a body."""
    packed: bytes = msgpack.packb(fields)
    return packed


def unpack(body: bytes) -> list[Any]:
    """Return the fields of a body: a list whose first is the sender's public key.

    Text, maps and extension types do not occur in this protocol and are refused.

    Raises:
        RemoteProtocolError: it is none.
    """
    try:
        fields = msgpack.unpackb(
            body,
            max_array_len=64,
            max_bin_len=MAX_DATAGRAM,
            max_str_len=0,
            max_map_len=0,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise RemoteProtocolError("a body is not the msgpack of this protocol") from error
    if type(fields) is not list or len(fields) < 2 or type(fields[0]) is not bytes:
        raise RemoteProtocolError("a body is not a list that starts with a key")
    if len(fields[0]) != 32:
        raise RemoteProtocolError("a public key is not 32 bytes")
    return fields


def _mac(key: bytes, head: bytes, body: bytes) -> bytes:
    return hashlib.blake2s(head + body, key=key, digest_size=16).digest()
