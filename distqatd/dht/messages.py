"""The three requests and their replies, as typed values and as lists of fields.

    HELLO  nonce, address asked         -> signature over both and the asker's key
    FIND   target, values?, after, have -> token, contacts, digest, next page, records
    STORE  token, key, record           -> status, the newer record if ours is stale

Decoding checks the type and the size of every field; nothing behind it has to.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias

from distqatd.base.errors import RemoteProtocolError
from distqatd.dht.contact import Contact
from distqatd.dht.datagram import HEADER_BYTES, pack
from distqatd.dht.limits import MAX_DATAGRAM, MAX_KEY

HELLO, FIND, STORE = 1, 2, 3

AMPLIFICATION = 3
"""A reply is at most this many times its request: the asker's address is not proven
[source: RFC 9000, 8.1]. FIND is padded so that a full datagram may answer it."""

_PADDED_FIND = -(-MAX_DATAGRAM // AMPLIFICATION)


class Status(IntEnum):
    """What became of a record one was asked to store."""

    STORED = 0
    STALE = 1
    REFUSED = 2
    FULL = 3
    BAD_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Hello:
    """Prove that you are at the address this went to."""

    nonce: bytes
    packed_ip: bytes
    port: int

    def pack(self, sender: bytes) -> bytes:
        """Return the body."""
        return pack([sender, HELLO, self.nonce, self.packed_ip, self.port])

    def signed_bytes(self, domain: bytes, asker: bytes) -> bytes:
        """Return what the answer's signature covers."""
        address = self.packed_ip + self.port.to_bytes(2, "big")
        return b"distqat-hello-1" + domain + asker + self.nonce + address


@dataclass(frozen=True, slots=True)
class Find:
    """Name the contacts nearest to `target`, and with `values` the records there.

    `after` is the cursor of the page before, empty at first; `have` is the digest of a record
    set that need not be sent again.
    """

    target: bytes
    values: bool
    after: bytes = b""
    have: bytes = b""

    def pack(self, sender: bytes) -> bytes:
        """Return the body, padded."""
        fields = [sender, FIND, self.target, self.values, self.after, self.have]
        short = _PADDED_FIND - HEADER_BYTES - len(pack([*fields, b""]))
        return pack([*fields, bytes(short)])


@dataclass(frozen=True, slots=True)
class Store:
    """Keep this record; `token` is from a FIND reply to the same address."""

    token: bytes
    key: str
    record: list[Any]

    def pack(self, sender: bytes) -> bytes:
        """Return the body."""
        return pack([sender, STORE, self.token, self.key.encode(), self.record])


Request: TypeAlias = Hello | Find | Store


@dataclass(frozen=True, slots=True)
class FindReply:
    """Answer to FIND; `records` are not parsed yet, so that one bad one spoils no other."""

    token: bytes
    contacts: tuple[Contact, ...]
    digest: bytes
    next_page: bytes
    records: list[Any]


@dataclass(frozen=True, slots=True)
class StoreReply:
    """Answer to STORE."""

    status: Status
    newer: list[Any] | None


def parse_request(fields: list[Any]) -> Request:
    """Read a request; the sender's key is `fields[0]`.

    Raises:
        RemoteProtocolError: it is none.
    """
    kind = fields[1]
    if kind == HELLO and _shape(fields[2:]) == [bytes, bytes, int]:
        return _hello(*fields[2:])
    if kind == FIND and _shape(fields[2:]) == [bytes, bool, bytes, bytes, bytes]:
        return _find(*fields[2:6])
    if kind == STORE and _shape(fields[2:]) == [bytes, bytes, list]:
        return _store(*fields[2:])
    raise RemoteProtocolError("no such request")


def parse_hello_reply(fields: list[Any]) -> bytes:
    """Return the signature.

    Raises:
        RemoteProtocolError: it is no answer to HELLO.
    """
    if _shape(fields) != [bytes, bytes] or len(fields[1]) != 64:
        raise RemoteProtocolError("not an answer to HELLO")
    signature: bytes = fields[1]
    return signature


def parse_find_reply(fields: list[Any], max_contacts: int) -> FindReply:
    """Read an answer to FIND; contacts that cannot exist are left out.

    Raises:
        RemoteProtocolError: it is no answer to FIND.
    """
    if _shape(fields) != [bytes, bytes, list, bytes, bytes, list]:
        raise RemoteProtocolError("not an answer to FIND")
    _, token, contacts, digest, next_page, records = fields
    if len(token) != 8 or len(digest) not in (0, 8) or len(next_page) not in (0, 8):
        raise RemoteProtocolError("a field of an answer to FIND is out of bounds")
    return FindReply(token, _contacts(contacts[:max_contacts]), digest, next_page, records)


def parse_store_reply(fields: list[Any]) -> StoreReply:
    """Read an answer to STORE.

    Raises:
        RemoteProtocolError: it is none.
    """
    if _shape(fields) not in ([bytes, int, type(None)], [bytes, int, list]):
        raise RemoteProtocolError("not an answer to STORE")
    if not 0 <= fields[1] <= max(Status):
        raise RemoteProtocolError("no such status")
    return StoreReply(Status(fields[1]), fields[2])


def _hello(nonce: bytes, packed_ip: bytes, port: int) -> Hello:
    if len(nonce) != 16 or len(packed_ip) not in (4, 16) or not 0 < port < 65536:
        raise RemoteProtocolError("a field of HELLO is out of bounds")
    return Hello(nonce, packed_ip, port)


def _find(target: bytes, values: bool, after: bytes, have: bytes) -> Find:  # noqa: FBT001
    if len(target) != 20 or len(after) not in (0, 8) or len(have) not in (0, 8):
        raise RemoteProtocolError("a field of FIND is out of bounds")
    return Find(target, values, after, have)


def _store(token: bytes, key: bytes, record: list[Any]) -> Store:
    if len(token) != 8 or len(key) > MAX_KEY:
        raise RemoteProtocolError("a field of STORE is out of bounds")
    try:
        return Store(token, key.decode(), record)
    except UnicodeDecodeError as error:
        raise RemoteProtocolError("a key is not UTF-8") from error


def _contacts(entries: list[Any]) -> tuple[Contact, ...]:
    contacts = []
    for entry in entries:
        try:
            contacts.append(Contact.parse(entry))
        except RemoteProtocolError:
            continue
    return tuple(contacts)


def _shape(fields: list[Any]) -> list[type]:
    return [type(field) for field in fields]
