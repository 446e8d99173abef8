import base64
import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from hypothesis import given, settings
from hypothesis import strategies as st

from distqatd.base.errors import IdentityError
from distqatd.base.ids import parse_peer_id
from distqatd.base.rng import seeded_rng
from distqatd.identity.keys import Identity, peer_id_of, verify

ALICE = Identity.generate(seeded_rng("alice"))


def test_the_peer_id_is_the_hash_of_the_der_public_key() -> None:
    der = ALICE.private_key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    expected = base64.b32encode(hashlib.sha256(der).digest()).decode().rstrip("=").lower()
    assert ALICE.peer_id == expected == parse_peer_id(ALICE.peer_id) == peer_id_of(ALICE.public_key)


def test_a_seeded_generator_always_gives_the_same_identity() -> None:
    assert Identity.generate(seeded_rng("alice")).peer_id == ALICE.peer_id
    assert Identity.generate(seeded_rng("bob")).peer_id != ALICE.peer_id


def test_a_key_file_gives_the_same_identity_every_time(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    first = Identity.load_or_create(path)
    assert Identity.load_or_create(path).peer_id == first.peer_id
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_key_file_open_to_others_is_refused_with_the_chmod_to_run(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    Identity.load_or_create(path)
    path.chmod(0o644)
    with pytest.raises(IdentityError, match=f"chmod 600 {path}"):
        Identity.load_or_create(path)


def test_a_file_that_is_no_key_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    path.write_bytes(b"not a key")
    path.chmod(0o600)
    with pytest.raises(IdentityError, match="holds no private key"):
        Identity.load_or_create(path)
    assert path.read_bytes() == b"not a key"


def test_another_kind_of_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    key = generate_private_key(SECP256R1())
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    path.chmod(0o600)
    with pytest.raises(IdentityError, match="Ed25519"):
        Identity.load_or_create(path)


def test_the_private_key_is_not_in_the_repr() -> None:
    assert repr(ALICE) == f"Identity({ALICE.peer_id})"


@given(message=st.binary(max_size=64), other=st.binary(max_size=64))
@settings(max_examples=50, deadline=None)
def test_a_signature_fits_its_message_and_key_only(message: bytes, other: bytes) -> None:
    signature = ALICE.sign(message)
    assert verify(ALICE.public_key, signature, message)
    assert verify(ALICE.public_key, signature, other) == (message == other)
    assert not verify(Identity.generate(seeded_rng("bob")).public_key, signature, message)


@given(key=st.binary(max_size=40), signature=st.binary(max_size=70))
@settings(max_examples=50, deadline=None)
def test_garbage_never_verifies_and_never_raises(key: bytes, signature: bytes) -> None:
    assert not verify(key, signature, b"message")


def test_a_public_key_of_the_wrong_length_has_no_peer_id() -> None:
    with pytest.raises(IdentityError, match="32 bytes, not 31"):
        peer_id_of(bytes(31))
