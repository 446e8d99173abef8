"""A peer's Ed25519 key, and the peer id that is the hash of its public half."""

import base64
import hashlib
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from distqatd.base.errors import IdentityError
from distqatd.base.ids import PeerId
from distqatd.base.rng import Rng, system_rng
from distqatd.identity.private_file import read_or_create_private

KEY_BYTES = 32
"""Length of a raw Ed25519 public key and of a private seed."""

_SPKI_PREFIX = bytes.fromhex("302a300506032b6570032100")
"""DER of SubjectPublicKeyInfo up to the key bits [source: RFC 8410, section 4]."""


class Identity:
    """One peer: a private key and the peer id that follows from it."""

    __slots__ = ("peer_id", "private_key", "public_key")

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self.private_key = private_key
        self.public_key: bytes = private_key.public_key().public_bytes_raw()
        self.peer_id: PeerId = peer_id_of(self.public_key)

    @classmethod
    def generate(cls, rng: Rng) -> "Identity":
        """Return a new identity; only `system_rng()` makes one that nobody can guess."""
        return cls(Ed25519PrivateKey.from_private_bytes(rng.randbytes(KEY_BYTES)))

    @classmethod
    def load_or_create(cls, path: Path, rng: Rng | None = None) -> "Identity":
        """Return the identity in the PEM file `path`, made with mode 0600 if there is none.

        Raises:
            IdentityError: others can read the file, or it holds no Ed25519 key.
        """
        fresh = cls.generate(rng or system_rng())
        pem = read_or_create_private(path, private_key_pem(fresh.private_key))
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise IdentityError(f"{path} holds no private key; {_REMEDY}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise IdentityError(f"{path} holds another kind of key than Ed25519; {_REMEDY}")
        return cls(key)

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature of `message`."""
        return self.private_key.sign(message)

    def __repr__(self) -> str:
        return f"Identity({self.peer_id})"


_REMEDY = "restore it from a backup, or move it away to get a new peer id"


def private_key_pem(key: Ed25519PrivateKey) -> bytes:
    """Return the key as unencrypted PKCS#8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Return whether `signature` over `message` was made with the key; garbage is just False."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def peer_id_of(public_key: bytes) -> PeerId:
    """Return sha256(SPKI DER) of a raw Ed25519 public key, in lowercase base32 without padding.

    Raises:
        IdentityError: it has not 32 bytes.
    """
    if len(public_key) != KEY_BYTES:
        raise IdentityError(f"an Ed25519 public key has {KEY_BYTES} bytes, not {len(public_key)}")
    digest = hashlib.sha256(_SPKI_PREFIX + public_key).digest()
    return PeerId(base64.b32encode(digest).decode().rstrip("=").lower())
