"""Where a node is: addresses as packed bytes on the wire, as text inside, never host names."""

import hashlib
import ipaddress
import socket
from typing import Any, Self

from kademlia.node import Node  # noqa: TID251  dht is where kademlia lives

from distqatd.base.errors import RemoteProtocolError

Endpoint = tuple[str, int]
"""(IP address as text, port); an IPv4-mapped IPv6 address is always written as IPv4."""

_SPKI_ED25519 = bytes.fromhex("302a300506032b6570032100")


def node_id(public_key: bytes) -> bytes:
    """Return the DHT id of a key: the first 160 bits of the sha256 that its peer id shows."""
    return hashlib.sha256(_SPKI_ED25519 + public_key).digest()[:20]


def endpoint_of(address: tuple[Any, ...]) -> Endpoint:
    """Return the endpoint of a socket address, `::ffff:1.2.3.4` as `1.2.3.4`.

    Raises:
        RemoteProtocolError: it is a link-local address with a zone, which no packet can carry.
    """
    host = address[0]
    if "%" in host:
        raise RemoteProtocolError("an address with a zone means nothing to others")
    if host[:7].lower() == "::ffff:" and "." in host:
        host = host[7:]
    return host, address[1]


def is_loopback(ip: str) -> bool:
    """Return whether an address never leaves the machine."""
    return ip.startswith("127.") or ip == "::1"


def pack_ip(ip: str) -> bytes:
    """Return 4 or 16 bytes."""
    return socket.inet_pton(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip)


def unpack_ip(packed: bytes) -> str:
    """Return the address as text.

    Raises:
        RemoteProtocolError: no node can be there: wrong length, multicast, unspecified, reserved,
            IPv4 in disguise, or link-local (which means something else on every machine).
    """
    if len(packed) == 4 and 0 < packed[0] < 224:
        return socket.inet_ntop(socket.AF_INET, packed)
    if len(packed) == 16:
        address = ipaddress.IPv6Address(packed)
        odd = address.is_multicast or address.is_unspecified or address.is_link_local
        if not odd and address.ipv4_mapped is None:
            return str(address)
    raise RemoteProtocolError("an address is not one a node can have")


class Contact(Node):  # type: ignore[misc]
    """A kademlia Node whose id is the hash of its key, with what we know of its health."""

    id: bytes
    ip: str
    port: int
    long_id: int

    def __init__(self, public_key: bytes, ip: str, port: int) -> None:
        super().__init__(node_id(public_key), ip, port)
        self.public_key = public_key
        self.num_failures = 0
        self.heard_at = 0.0

    @property
    def endpoint(self) -> Endpoint:
        """Return where it is."""
        return (self.ip, self.port)

    def wire(self) -> list[Any]:
        """Return the fields to send; the id is not among them, receivers derive it."""
        return [self.public_key, pack_ip(self.ip), self.port]

    @classmethod
    def parse(cls, fields: Any) -> Self:
        """Read a contact as it came off the wire; it has proven nothing yet.

        Raises:
            RemoteProtocolError: a field has the wrong type or size, or no node can be there.
        """
        if type(fields) is not list or [type(field) for field in fields] != [bytes, bytes, int]:
            raise RemoteProtocolError("a contact is not key, address, port")
        public_key, packed, port = fields
        if len(public_key) != 32 or not 0 < port < 65536:
            raise RemoteProtocolError("a contact's key or port is out of bounds")
        return cls(public_key, unpack_ip(packed), port)
