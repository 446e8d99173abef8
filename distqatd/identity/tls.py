"""TLS 1.3 with certificates on both sides: the handshake proves membership and the peer id.

A peer's leaf certificate carries its own key and is signed by the swarm's CA key, which each
member derives for itself. OpenSSL checks the chain and that the other side holds the leaf's key;
`peer_id_from_cert` then says who it is. A client that the server rejects still sees its own
handshake succeed [RFC 8446, section 4.4.2.4]: trust nothing before the other side's first bytes.
"""

import datetime
import ssl
import tempfile
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

from distqatd.base.errors import IdentityError
from distqatd.base.ids import PeerId
from distqatd.identity.keys import Identity, peer_id_of, private_key_pem
from distqatd.identity.swarm import Swarm

ALPN = "distqat/1"
"""Names the protocol inside TLS, so that a port shared with something else is noticed."""

_CA_NAME = "distqat swarm"
"""The same for every swarm: certificates are seen by strangers and must not name it."""

_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME, absent from `ssl.VerifyFlags` [source: openssl/x509_vfy.h]."""

_VALID_FROM = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_VALID_UNTIL = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


@dataclass(frozen=True, slots=True)
class TlsContexts:
    """The two sides of every link; each presents our certificate and demands the peer's."""

    server: ssl.SSLContext
    client: ssl.SSLContext


def contexts(identity: Identity, swarm: Swarm) -> TlsContexts:
    """Return contexts that prove `identity` as a member of `swarm` and accept only members.

    Certificate dates are not looked at: membership ends with the secret, and volunteers' clocks
    are wrong.
    """
    authority = ca_certificate(swarm.ca_key)
    leaf = leaf_certificate(identity.public_key, swarm.ca_key)
    return context_pair(identity.private_key, [leaf], authority)


def peer_id_from_cert(der: bytes) -> PeerId:
    """Return the peer id of the key in a certificate that TLS has verified.

    Raises:
        IdentityError: no certificate, or one with another kind of key.
    """
    try:
        key = x509.load_der_x509_certificate(der).public_key()
    except ValueError as error:
        raise IdentityError("the peer's certificate cannot be read") from error
    if not isinstance(key, Ed25519PublicKey):
        raise IdentityError("the peer's certificate has another kind of key than Ed25519")
    return peer_id_of(key.public_bytes_raw())


def context_pair(
    key: Ed25519PrivateKey, chain: list[x509.Certificate], authority: x509.Certificate
) -> TlsContexts:
    """Return contexts that present `chain` (leaf first) and trust `authority` alone.

    Raises:
        ssl.SSLError: `key` is not the leaf's.
    """
    server = _context(ssl.PROTOCOL_TLS_SERVER, key, chain, authority)
    # No resumption: a ticket would let a link begin without a fresh proof of the peer's key.
    server.num_tickets = 0
    return TlsContexts(server, _context(ssl.PROTOCOL_TLS_CLIENT, key, chain, authority))


def ca_certificate(ca_key: Ed25519PrivateKey) -> x509.Certificate:
    """Return the self-signed root that every member derives alike; it signs leaves only."""
    public_key = ca_key.public_key().public_bytes_raw()
    return _certificate(_CA_NAME, public_key, _CA_NAME, ca_key, is_ca=True)


def leaf_certificate(
    public_key: bytes, issuer_key: Ed25519PrivateKey, issuer_name: str = _CA_NAME
) -> x509.Certificate:
    """Return a certificate that `public_key` belongs to a member, signed by `issuer_key`."""
    subject = peer_id_of(public_key)
    return _certificate(subject, public_key, issuer_name, issuer_key, is_ca=False)


def _context(
    protocol: int,
    key: Ed25519PrivateKey,
    chain: list[x509.Certificate],
    authority: x509.Certificate,
) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    # Peers are named by key, not by host; the dialler compares peer ids itself.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= _NO_CHECK_TIME
    context.set_alpn_protocols([ALPN])
    context.load_verify_locations(cadata=_pem(authority).decode())
    _load_chain(context, key, chain)
    return context


def _load_chain(
    context: ssl.SSLContext, key: Ed25519PrivateKey, chain: list[x509.Certificate]
) -> None:
    """Hand key and certificates to OpenSSL, which takes them from a file only (0600, removed)."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(private_key_pem(key) + b"".join(_pem(each) for each in chain))
        file.flush()
        context.load_cert_chain(file.name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _certificate(
    subject: str, public_key: bytes, issuer: str, issuer_key: Ed25519PrivateKey, *, is_ca: bool
) -> x509.Certificate:
    key = Ed25519PublicKey.from_public_bytes(public_key)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key)
        # A pure function of the key: members must derive the very same root.
        .serial_number(int.from_bytes(identifier.digest[:16], "big") + 1)
        .not_valid_before(_VALID_FROM)
        .not_valid_after(_VALID_UNTIL)
        .add_extension(x509.BasicConstraints(is_ca, 0 if is_ca else None), critical=True)
        .add_extension(_key_usage(is_ca=is_ca), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(authority, critical=False)
    )
    return builder.sign(issuer_key, None)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    """Let a root sign certificates and a leaf sign handshakes, neither anything else."""
    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )
