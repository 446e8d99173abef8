"""What makes a swarm: one secret (or, for an open swarm, its public name) and keys derived from it.

Whoever holds the CA key can issue itself a certificate, which is all that membership means. In an
open swarm everybody can, so there the CA check proves nothing and only peer ids count.
"""

from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from distqatd.base.errors import IdentityError
from distqatd.base.rng import Rng, system_rng
from distqatd.identity.private_file import read_or_create_private, read_private

SECRET_BYTES = 32
"""Secrets are generated, never typed: a server's certificate lets anyone guess at a weak one."""

MAX_NAME_BYTES = 64


@dataclass(frozen=True, slots=True)
class Swarm:
    """A swarm as its members know it.

    Attributes:
        name: what people call it; also what defines it, if it is open.
        swarm_id: 32 hex digits, safe to show and to send.
        ca_key: signs members' certificates.
        datagram_key: 32 bytes; authenticates the DHT's datagrams before they are parsed.
        is_open: anybody who knows the name is a member.
    """

    name: str
    swarm_id: str
    ca_key: Ed25519PrivateKey = field(repr=False)
    datagram_key: bytes = field(repr=False)
    is_open: bool


def open_swarm(name: str) -> Swarm:
    """Return the swarm that anybody who knows `name` can join."""
    return _derive(check_swarm_name(name), b"open\0" + name.encode(), is_open=True)


def secret_swarm(name: str, secret: bytes) -> Swarm:
    """Return the swarm of those who hold the 32-byte `secret`; `name` is only its label.

    Raises:
        IdentityError: the secret has another length, or the name is unusable.
    """
    if len(secret) != SECRET_BYTES:
        raise IdentityError(f"a swarm secret has {SECRET_BYTES} bytes, not {len(secret)}")
    return _derive(check_swarm_name(name), b"secret\0" + secret, is_open=False)


def check_swarm_name(name: str) -> str:
    """Return `name` if a swarm can be called that.

    Raises:
        IdentityError: it is empty, longer than 64 bytes, or has unprintable characters.
    """
    if not name.strip() or len(name.encode()) > MAX_NAME_BYTES or not name.isprintable():
        raise IdentityError(
            f"{name!r} cannot name a swarm; use 1 to {MAX_NAME_BYTES} printable characters"
        )
    return name


def generate_secret(rng: Rng) -> bytes:
    """Return 32 random bytes; only `system_rng()` makes a secret."""
    return rng.randbytes(SECRET_BYTES)


def load_or_create_secret(path: Path, rng: Rng | None = None) -> bytes:
    """Return the secret in `path`, generated into a file of mode 0600 if there is none.

    Raises:
        IdentityError: others can read the file, or it holds no secret.
    """
    fresh = generate_secret(rng or system_rng()).hex() + "\n"
    return parse_secret(read_or_create_private(path, fresh.encode()), source=str(path))


def load_secret(path: Path) -> bytes:
    """Return the secret in `path`; never create one (a joiner's new secret would fit nobody).

    Raises:
        IdentityError: the file is missing, open to others, or holds no secret.
    """
    return parse_secret(read_private(path), source=str(path))


def parse_secret(text: bytes, *, source: str) -> bytes:
    """Return the 32 bytes written as 64 hex digits; `source` names their origin in the error.

    Raises:
        IdentityError: they are not; the message never shows the text.
    """
    try:
        secret = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        secret = b""
    if len(secret) != SECRET_BYTES:
        raise IdentityError(
            f"{source} holds no swarm secret, which is {2 * SECRET_BYTES} hex digits;"
            " copy the file from a member, or ask one for an invite"
        )
    return secret


def _derive(name: str, material: bytes, *, is_open: bool) -> Swarm:
    ca_seed = _hkdf(material, b"distqat ca v1", 32)
    return Swarm(
        name=name,
        swarm_id=_hkdf(material, b"distqat swarm id v1", 16).hex(),
        ca_key=Ed25519PrivateKey.from_private_bytes(ca_seed),
        datagram_key=_hkdf(material, b"distqat datagram v1", 32),
        is_open=is_open,
    )


def _hkdf(material: bytes, info: bytes, num_bytes: int) -> bytes:
    """Derive independent keys: outputs under different `info` tell nothing about each other."""
    return HKDF(hashes.SHA256(), num_bytes, salt=b"distqat swarm v1", info=info).derive(material)
