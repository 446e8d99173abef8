"""An invite: all that a newcomer needs to join, as one word that survives chat and e-mail.

`dq1:` + base32 of: length u16 big endian | msgpack body | first 4 bytes of sha256(body). The
checksum is against typos. The secret inside is not encrypted: who has the invite is a member.
"""

import base64
import hashlib
from dataclasses import dataclass, field
from typing import Any

import msgpack

from distqatd.base.errors import IdentityError
from distqatd.base.ids import PeerId, parse_peer_id
from distqatd.identity.operator import check_public_key
from distqatd.identity.swarm import (
    SECRET_BYTES,
    Swarm,
    check_swarm_name,
    open_swarm,
    secret_swarm,
)

PREFIX = "dq1:"
MAX_ADDRESSES = 16
MAX_ADDRESS_CHARS = 320
MAX_CHARS = 16 << 10
_CHECKSUM_BYTES = 4
_ALPHABET = frozenset("abcdefghijklmnopqrstuvwxyz234567")
_LOOKALIKES = {"0": "o", "1": "l", "8": "b", "9": "g"}
_FIX = "paste the whole word again, or ask for a new one (distqatctl invite)"


@dataclass(frozen=True, slots=True)
class Invite:
    """What a member hands to a newcomer.

    Attributes:
        swarm_name: the swarm's name.
        open: whether the name alone lets one in; then there is no secret.
        secret: the 32-byte swarm secret of a secret swarm.
        addresses: where members can be reached, as `net.address` writes them.
        peer_id: who is expected at those addresses that name nobody themselves.
        operator: public key of the swarm's operator, whose directives a newcomer takes.
    """

    swarm_name: str
    open: bool
    secret: bytes | None = field(repr=False)
    addresses: tuple[str, ...]
    peer_id: PeerId | None = None
    operator: bytes | None = None

    def __post_init__(self) -> None:
        check_swarm_name(self.swarm_name)
        if self.open != (self.secret is None):
            raise IdentityError("an invite has a secret exactly if its swarm is not open")
        if self.secret is not None and len(self.secret) != SECRET_BYTES:
            raise IdentityError(f"the invite's secret has {len(self.secret)} bytes, not 32")
        if self.operator is not None:
            check_public_key(self.operator)
        if len(self.addresses) > MAX_ADDRESSES:
            raise IdentityError(f"an invite has at most {MAX_ADDRESSES} addresses")
        if any(not 0 < len(each) <= MAX_ADDRESS_CHARS for each in self.addresses):
            raise IdentityError(f"an address in an invite has 1 to {MAX_ADDRESS_CHARS} characters")

    def swarm(self) -> Swarm:
        """Return the swarm this invite leads to."""
        if self.secret is None:
            return open_swarm(self.swarm_name)
        return secret_swarm(self.swarm_name, self.secret)

    def __str__(self) -> str:
        """Return the `dq1:` word; it contains the secret."""
        fields = (self.swarm_name, self.secret, self.addresses, self.peer_id, self.operator)
        body: bytes = msgpack.packb(fields)
        checksum = hashlib.sha256(body).digest()[:_CHECKSUM_BYTES]
        return PREFIX + _base32(len(body).to_bytes(2, "big") + body + checksum)

    @classmethod
    def parse(cls, text: str) -> "Invite":
        """Read a `dq1:` word; white space inside and the case of letters do not matter.

        Raises:
            IdentityError: no invite, mistyped, cut off, or made by another version.
        """
        return _from_body(_body(_letters(text)))


def is_invite(text: str) -> bool:
    """Return whether `text` was meant as an invite, typos or not."""
    return text.strip().lower().startswith(PREFIX)


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=").lower()


def _letters(text: str) -> str:
    """Return the part after the prefix, normalised, or name the first impossible character."""
    word = "".join(text.split()).lower()
    if not word.startswith(PREFIX):
        raise IdentityError(f"an invite begins with {PREFIX!r}; this begins with {word[:8]!r}")
    if len(word) > MAX_CHARS:
        raise IdentityError(f"an invite has at most {MAX_CHARS} characters; this has {len(word)}")
    for position, letter in enumerate(word[len(PREFIX) :], start=len(PREFIX) + 1):
        if letter not in _ALPHABET:
            meant = _LOOKALIKES.get(letter)
            hint = f" (did you mean {meant!r}?)" if meant else ""
            raise IdentityError(
                f"invite: character {position}, {letter!r}, occurs in no invite{hint}; {_FIX}"
            )
    return word[len(PREFIX) :]


def _body(letters: str) -> bytes:
    """Return the checked msgpack body."""
    try:
        data = base64.b32decode(letters.upper() + "=" * (-len(letters) % 8))
    except ValueError:
        data = b""
    size = 2 + int.from_bytes(data[:2], "big") + _CHECKSUM_BYTES
    if len(data) < size:
        raise IdentityError(f"the invite is cut off after {len(letters)} characters; {_FIX}")
    body = data[2:-_CHECKSUM_BYTES]
    checksum = hashlib.sha256(body).digest()[:_CHECKSUM_BYTES]
    if len(data) > size or data[-_CHECKSUM_BYTES:] != checksum or _base32(data) != letters:
        raise IdentityError(f"the invite has a typo: its checksum does not match; {_FIX}")
    return body


def _from_body(body: bytes) -> Invite:
    """Build the invite; a valid checksum does not make a stranger's body well-formed."""
    try:
        fields: Any = msgpack.unpackb(body, use_list=False)
    except (ValueError, msgpack.UnpackException) as error:
        raise IdentityError(f"the invite cannot be read; {_FIX}") from error
    match fields:
        case (
            str(name),
            bytes() | None as secret,
            tuple(addresses),
            str() | None as peer_id,
            bytes() | None as operator,
        ) if all(isinstance(each, str) for each in addresses):
            peer = None if peer_id is None else parse_peer_id(peer_id)
            return Invite(name, secret is None, secret, addresses, peer, operator)
        case _:
            raise IdentityError(f"the invite is of a kind this version does not know; {_FIX}")
