"""A record: one signed value in the slot (key, publisher, subkey), or the mark that it is gone.

Nobody but the publisher can write into its slots, so records merge without conflict: in each
slot the highest sequence number wins. `ttl_ms` is signed and relative: how long after the
publisher signed it a record may live. It carries no wall-clock time, so a wrong clock on any
machine decides nothing. What is left of the ttl travels beside the record and is not signed; no
receiver counts more than the signed ttl.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Self

import msgpack

from distqatd.base.errors import RecordError, RemoteProtocolError
from distqatd.base.ids import PeerId
from distqatd.dht.limits import MAX_KEY, MAX_SUBKEY, MAX_TTL_MS, MAX_VALUE
from distqatd.identity.keys import Identity, peer_id_of, verify

Slot = tuple[bytes, str]
"""(publisher's public key, subkey): what a publisher owns under a key."""

MAX_SEQ = 2**63 - 1


def key_id(key: str) -> bytes:
    """Return where a key lives in the 160-bit id space."""
    return hashlib.blake2b(key.encode(), digest_size=20, person=b"distqat-key").digest()


@dataclass(frozen=True, slots=True)
class Record:
    """One signed slot. `value` is empty and `deleted` set in a tombstone."""

    key: str
    subkey: str
    value: bytes
    publisher: bytes
    seq: int
    ttl_ms: int
    signature: bytes
    deleted: bool = False

    @classmethod
    def sign(
        cls,
        identity: Identity,
        domain: bytes,
        slot: tuple[str, str],
        value: bytes | None,
        *,
        seq: int,
        ttl_s: float,
    ) -> Self:
        """Make a record of `identity` in the slot (key, subkey); None as value is a tombstone.

        `domain` separates swarms: a record of one does not verify in another.

        Raises:
            RecordError: key, subkey, value or ttl is beyond its limit.
        """
        key, subkey = slot
        check_limits(key, subkey, value or b"", ttl_s)
        ttl_ms = round(ttl_s * 1000)
        bare = cls(key, subkey, value or b"", identity.public_key, seq, ttl_ms, b"", value is None)
        signature = identity.sign(bare.signed_bytes(domain))
        return cls(*bare._unsigned(), signature, bare.deleted)

    @classmethod
    def parse(cls, key: str, fields: Any) -> tuple[Self, float]:
        """Read one record as it came off the wire, and the seconds it has left. Not verified.

        Raises:
            RemoteProtocolError: a field has the wrong type or size.
        """
        if type(fields) is not list or [type(field) for field in fields] not in _SHAPES:
            raise RemoteProtocolError("a record is not a list of its seven fields")
        subkey, value, seq, ttl_ms, publisher, signature, left_ms = fields
        sizes_ok = len(subkey) <= MAX_SUBKEY and len(value or b"") <= MAX_VALUE
        numbers_ok = 0 <= seq <= MAX_SEQ and 0 < left_ms <= ttl_ms <= MAX_TTL_MS
        if not (sizes_ok and numbers_ok and len(publisher) == 32 and len(signature) == 64):
            raise RemoteProtocolError("a field of a record is out of bounds")
        try:
            text = subkey.decode()
        except UnicodeDecodeError as error:
            raise RemoteProtocolError("a subkey is not UTF-8") from error
        deleted = value is None
        record = cls(key, text, value or b"", publisher, seq, ttl_ms, signature, deleted)
        return record, left_ms / 1000

    @property
    def slot(self) -> Slot:
        """Return what identifies this record under its key."""
        return (self.publisher, self.subkey)

    @property
    def rank(self) -> tuple[int, bytes]:
        """Return the order inside a slot: total, so that merging commutes and associates.

        A publisher that signs two records with one seq (a cloned key) is resolved by signature.
        """
        return (self.seq, self.signature)

    @property
    def ttl_s(self) -> float:
        """Return the signed time to live, seconds."""
        return self.ttl_ms / 1000

    @property
    def peer_id(self) -> PeerId:
        """Return who published it."""
        return peer_id_of(self.publisher)

    def wire(self, left_s: float) -> list[Any]:
        """Return the fields to send, with `left_s` to live, at most the ttl."""
        left_ms = max(1, min(self.ttl_ms, int(left_s * 1000)))
        value = None if self.deleted else self.value
        return [
            *(self.subkey.encode(), value, self.seq, self.ttl_ms),
            *(self.publisher, self.signature, left_ms),
        ]

    def signed_bytes(self, domain: bytes) -> bytes:
        """Return what the signature covers."""
        key, subkey, value, publisher, seq, ttl_ms = self._unsigned()
        body = [key, subkey, None if self.deleted else value, publisher, seq, ttl_ms]
        packed: bytes = msgpack.packb(body)
        return b"distqat-record-1" + domain + packed

    def _unsigned(self) -> tuple[str, str, bytes, bytes, int, int]:
        return (self.key, self.subkey, self.value, self.publisher, self.seq, self.ttl_ms)


_SHAPES = (
    [bytes, bytes, int, int, bytes, bytes, int],
    [bytes, type(None), int, int, bytes, bytes, int],
)


def check_limits(key: str, subkey: str, value: bytes, ttl_s: float) -> None:
    """Check what a record may be.

    Raises:
        RecordError: key, subkey, value or ttl is beyond its limit.
    """
    _check_size("key", key.encode(), MAX_KEY)
    _check_size("subkey", subkey.encode(), MAX_SUBKEY)
    _check_size("value", value, MAX_VALUE)
    if not 1 <= ttl_s * 1000 <= MAX_TTL_MS:
        raise RecordError(f"ttl of {ttl_s} s is outside 0.001 to {MAX_TTL_MS // 1000} s")


def _check_size(what: str, data: bytes, limit: int) -> None:
    if len(data) > limit:
        raise RecordError(f"{what} of {len(data)} B is over the limit of {limit} B")


def slot_cursor(slot: Slot) -> bytes:
    """Return the 8 bytes that order slots in a paged answer."""
    return hashlib.blake2b(slot[0] + slot[1].encode(), digest_size=8).digest()


class Verifier:
    """Checks signatures and remembers the good ones, at most `capacity` of them.

    A record is seen many times (each get, each holder) and costs 0.1 ms to verify once. Only good
    signatures are kept, under a digest of everything they cover, so a hit proves the same.
    """

    def __init__(self, domain: bytes, capacity: int) -> None:
        self.domain = domain
        self._capacity = capacity
        self._good: OrderedDict[bytes, None] = OrderedDict()

    def accepts(self, record: Record) -> bool:
        """Return whether the publisher signed exactly this record for this swarm."""
        message = record.signed_bytes(self.domain)
        digest = hashlib.blake2b(record.signature + message, digest_size=16).digest()
        if digest in self._good:
            self._good.move_to_end(digest)
            return True
        if not verify(record.publisher, record.signature, message):
            return False
        self._good[digest] = None
        if len(self._good) > self._capacity:
            self._good.popitem(last=False)
        return True
