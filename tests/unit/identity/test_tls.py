"""Every way into a swarm without being a member, over memory instead of sockets."""

import datetime
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256

from distqatd.base.errors import IdentityError
from distqatd.base.ids import PeerId
from distqatd.base.rng import seeded_rng
from distqatd.identity import tls
from distqatd.identity.keys import Identity
from distqatd.identity.swarm import open_swarm, secret_swarm

SWARM = secret_swarm("demo", bytes(range(32)))
OTHER_SWARM = secret_swarm("demo", bytes(32))
ALICE, BOB, MALLORY = (Identity.generate(seeded_rng(name)) for name in ("a", "b", "m"))


class Pipe:
    """A TLS client and server joined by memory."""

    def __init__(self, client: ssl.SSLContext, server: ssl.SSLContext) -> None:
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client.wrap_bio(down, up)
        self.server = server.wrap_bio(up, down, server_side=True)

    def handshake(self) -> "Pipe":
        """Run both sides to the end; the first error of either side is raised."""
        pending = {self.client, self.server}
        for _ in range(8):
            for side in (self.client, self.server):
                if side in pending and _step(side.do_handshake):
                    pending.discard(side)
        assert not pending
        return self

    def peers(self) -> tuple[PeerId, PeerId]:
        """Return whom the client and the server see."""
        return _peer(self.client), _peer(self.server)


def _step(handshake) -> bool:
    try:
        handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _peer(side: ssl.SSLObject) -> PeerId:
    certificate = side.getpeercert(binary_form=True)
    assert certificate is not None
    return tls.peer_id_from_cert(certificate)


def _trusting(context: ssl.SSLContext) -> ssl.SSLContext:
    """Return the context of an attacker, who accepts any server."""
    context.verify_mode = ssl.CERT_NONE
    return context


def test_members_prove_their_peer_ids_to_each_other_over_tls_1_3() -> None:
    pipe = Pipe(tls.contexts(BOB, SWARM).client, tls.contexts(ALICE, SWARM).server).handshake()
    assert pipe.peers() == (ALICE.peer_id, BOB.peer_id)
    assert pipe.client.version() == "TLSv1.3"
    assert pipe.client.selected_alpn_protocol() == tls.ALPN


def test_in_an_open_swarm_the_name_is_enough() -> None:
    server = tls.contexts(ALICE, open_swarm("demo")).server
    pipe = Pipe(tls.contexts(MALLORY, open_swarm("demo")).client, server).handshake()
    assert pipe.peers() == (ALICE.peer_id, MALLORY.peer_id)


def test_a_server_of_another_swarm_is_refused_by_the_client() -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        Pipe(tls.contexts(BOB, SWARM).client, tls.contexts(MALLORY, OTHER_SWARM).server).handshake()


def test_a_client_of_another_swarm_is_refused_by_the_server() -> None:
    attacker = _trusting(tls.contexts(MALLORY, OTHER_SWARM).client)
    with pytest.raises(ssl.SSLCertVerificationError):
        Pipe(attacker, tls.contexts(ALICE, SWARM).server).handshake()


def test_a_rejected_client_believes_its_handshake_succeeded() -> None:
    """Why nothing may be trusted before the other side's first bytes were read."""
    pipe = Pipe(
        _trusting(tls.contexts(MALLORY, OTHER_SWARM).client), tls.contexts(ALICE, SWARM).server
    )
    assert not _step(pipe.client.do_handshake)
    assert not _step(pipe.server.do_handshake)
    assert _step(pipe.client.do_handshake)
    with pytest.raises(ssl.SSLCertVerificationError):
        pipe.server.do_handshake()
    with pytest.raises(ssl.SSLError, match="alert"):
        pipe.client.read(1)


def test_a_client_without_certificate_is_refused() -> None:
    bare = _trusting_bare()
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        Pipe(bare, tls.contexts(ALICE, SWARM).server).handshake()


def test_tls_1_2_is_refused() -> None:
    old = _trusting_bare()
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        Pipe(old, tls.contexts(ALICE, SWARM).server).handshake()


def _trusting_bare() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _trusting(context)


def test_a_members_leaf_cannot_sign_for_somebody_else() -> None:
    member_leaf = tls.leaf_certificate(BOB.public_key, SWARM.ca_key)
    forged = tls.leaf_certificate(MALLORY.public_key, BOB.private_key, issuer_name=BOB.peer_id)
    chain = [forged, member_leaf]
    attacker = tls.context_pair(MALLORY.private_key, chain, tls.ca_certificate(SWARM.ca_key))
    with pytest.raises(ssl.SSLCertVerificationError):
        Pipe(_trusting(attacker.client), tls.contexts(ALICE, SWARM).server).handshake()


def test_a_root_may_not_sign_another_root() -> None:
    middle = Identity.generate(seeded_rng("middle"))
    sub_root = tls._certificate("sub", middle.public_key, tls._CA_NAME, SWARM.ca_key, is_ca=True)
    leaf = tls.leaf_certificate(MALLORY.public_key, middle.private_key, issuer_name="sub")
    root = tls.ca_certificate(SWARM.ca_key)
    attacker = tls.context_pair(MALLORY.private_key, [leaf, sub_root], root)
    with pytest.raises(ssl.SSLCertVerificationError):
        Pipe(_trusting(attacker.client), tls.contexts(ALICE, SWARM).server).handshake()


def test_a_stolen_certificate_is_useless_without_its_key() -> None:
    stolen = tls.leaf_certificate(BOB.public_key, SWARM.ca_key)
    with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
        tls.context_pair(MALLORY.private_key, [stolen], tls.ca_certificate(SWARM.ca_key))


def test_dates_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    long_ago = datetime.datetime(1990, 1, 1, tzinfo=datetime.UTC)
    monkeypatch.setattr(tls, "_VALID_UNTIL", long_ago + datetime.timedelta(days=1))
    monkeypatch.setattr(tls, "_VALID_FROM", long_ago)
    pipe = Pipe(tls.contexts(BOB, SWARM).client, tls.contexts(ALICE, SWARM).server).handshake()
    assert pipe.peers() == (ALICE.peer_id, BOB.peer_id)


def test_no_session_is_ever_resumed() -> None:
    assert tls.contexts(ALICE, SWARM).server.num_tickets == 0


def test_certificates_pass_openssls_strict_checks() -> None:
    server = tls.contexts(ALICE, SWARM).server
    server.verify_flags |= ssl.VERIFY_X509_STRICT
    client = tls.contexts(BOB, SWARM).client
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    Pipe(client, server).handshake()


def test_all_members_derive_the_same_root_and_it_does_not_name_the_swarm() -> None:
    root = tls.ca_certificate(secret_swarm("demo", bytes(range(32))).ca_key)
    assert root == tls.ca_certificate(SWARM.ca_key)
    assert b"demo" not in tls._pem(root)


def test_a_certificate_that_is_garbage_or_of_another_kind_has_no_peer_id() -> None:
    with pytest.raises(IdentityError, match="cannot be read"):
        tls.peer_id_from_cert(b"garbage")
    key = generate_private_key(SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(tls._name("x"))
        .issuer_name(tls._name("x"))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(tls._VALID_FROM)
        .not_valid_after(tls._VALID_UNTIL)
        .sign(key, SHA256())
    )
    with pytest.raises(IdentityError, match="Ed25519"):
        tls.peer_id_from_cert(certificate.public_bytes(tls.serialization.Encoding.DER))
