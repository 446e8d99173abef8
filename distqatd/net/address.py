"""Addresses of peers: what people type, what travels in records, and lists of them.

Written as multiaddrs, `/ip4/192.0.2.7/tcp/29700/p2p/<peer id>`; read in that form and as
`host`, `host:port`, `1.2.3.4:port` or `[v6]:port`.
"""

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from distqatd.base.errors import IdentityError
from distqatd.base.ids import PeerId, parse_peer_id
from distqatd.identity.invite import Invite, is_invite

DEFAULT_PORT = 29700
MAX_ENTRIES = 1000
"""Addresses one list may hold; a longer file is not a list of initial peers."""

_HOST_NAME = re.compile(
    r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_][a-z0-9_-]{0,62})*\.?"
)
_PORT = re.compile(r"[0-9]{1,5}")
_IP = re.compile(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?")
_FORMS = "expected host:port, [v6]:port or /ip4|ip6|dns/HOST/tcp/PORT/p2p/PEER"
_HOST_KINDS = ("ip4", "ip6", "dns", "dns4", "dns6")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a peer listens (TCP and UDP, the same number), and who is expected there.

    Attributes:
        host: an IPv4 or IPv6 address in its shortest form, or a lowercase DNS name.
        port: 1 to 65535.
        peer_id: refuse anybody else, if given.
    """

    host: str
    port: int = DEFAULT_PORT
    peer_id: PeerId | None = None

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read one address.

        Raises:
            IdentityError: it is none; the message shows the text and what would be right.
        """
        text = text.strip()
        return _parse_multiaddr(text) if text.startswith("/") else _parse_host_port(text)

    @property
    def kind(self) -> str:
        """Return `ip4`, `ip6` or `dns`."""
        ip = _ip(self.host)
        return "dns" if ip is None else f"ip{ip.version}"

    def __str__(self) -> str:
        """Return the multiaddr."""
        tail = "" if self.peer_id is None else f"/p2p/{self.peer_id}"
        return f"/{self.kind}/{self.host}/tcp/{self.port}{tail}"

    def host_port(self) -> str:
        """Return `host:port`, with brackets around IPv6: the short form for people."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def expand(text: str) -> list[Address]:
    """Return all addresses in a comma list of addresses, invites and `@file` references.

    A file has one such entry (or comma list) a line; `#` starts a comment. The order is kept,
    repetitions are dropped.

    Raises:
        IdentityError: an entry or file is unusable, or there are more than 1000 entries.
    """
    found: dict[Address, None] = {}
    for entry in _entries(text):
        if is_invite(entry):
            found.update(dict.fromkeys(invited_addresses(Invite.parse(entry))))
        else:
            found[Address.parse(entry)] = None
    return list(found)


def expand_invites(text: str) -> list[Invite]:
    """Return the invites among the entries of `text`, read as `expand` reads it.

    Raises:
        IdentityError: as `expand`.
    """
    return [Invite.parse(entry) for entry in _entries(text) if is_invite(entry)]


def invited_addresses(invite: Invite) -> list[Address]:
    """Return the invite's addresses; one without a peer id gets the invite's.

    Raises:
        IdentityError: one of them is no address.
    """
    parsed = [Address.parse(each) for each in invite.addresses]
    return [Address(each.host, each.port, each.peer_id or invite.peer_id) for each in parsed]


def _entries(text: str) -> Iterator[str]:
    for count, entry in enumerate(_nested_entries(text), start=1):
        if count > MAX_ENTRIES:
            raise IdentityError(f"more than {MAX_ENTRIES} initial peers; a few are enough")
        yield entry


def _nested_entries(text: str) -> Iterator[str]:
    for part in filter(None, map(str.strip, text.split(","))):
        if part.startswith("@"):
            yield from _file_entries(Path(part[1:]).expanduser())
        else:
            yield part


def _file_entries(path: Path) -> Iterator[str]:
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not text"
        raise IdentityError(f"cannot read the initial peers in {path}: {why}") from error
    for number, line in enumerate(content.splitlines(), start=1):
        for part in filter(None, map(str.strip, line.partition("#")[0].split(","))):
            if part.startswith("@"):
                raise IdentityError(f"{path}:{number}: {part} is a file inside a file; copy it in")
            yield part


def _parse_host_port(text: str) -> Address:
    if "://" in text:
        raise IdentityError(f"{text!r} is a URL; write {text.partition('://')[2]!r} without scheme")
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")) or not _is_ip(host, 6):
            raise IdentityError(f"{text!r} is not [v6] or [v6]:port")
        return Address(_host(host, text), _port(rest[1:], text) if rest else DEFAULT_PORT)
    if text.count(":") > 1:
        if _is_ip(text, 6):
            return Address(_host(text, text))
        raise IdentityError(f"{text!r} is no address; write IPv6 with a port as [v6]:port")
    host, colon, port = text.partition(":")
    return Address(_host(host, text), _port(port, text) if colon else DEFAULT_PORT)


def _parse_multiaddr(text: str) -> Address:
    parts = text[1:].split("/")
    if len(parts) % 2:
        raise IdentityError(f"{text!r} ends in the middle of a part; {_FORMS}")
    pairs = list(zip(parts[::2], parts[1::2], strict=True))
    kind, host = pairs.pop(0)
    if kind not in _HOST_KINDS:
        raise IdentityError(f"{text!r} begins with /{kind}; {_FORMS}")
    if kind.startswith("ip") and not _is_ip(host, int(kind[2])):
        raise IdentityError(f"{text!r}: {host!r} is not an IPv{kind[2]} address")
    port, peer_id = DEFAULT_PORT, None
    if pairs and pairs[0][0] == "tcp":
        port = _port(pairs.pop(0)[1], text)
    if pairs and pairs[0][0] == "p2p":
        peer_id = parse_peer_id(pairs.pop(0)[1])
    if pairs:
        raise IdentityError(f"{text!r}: /{pairs[0][0]} is not understood here; {_FORMS}")
    return Address(_host(host, text), port, peer_id)


def _port(text: str, whole: str) -> int:
    if not _PORT.fullmatch(text) or not 0 < int(text) <= 65535:
        raise IdentityError(f"{whole!r}: {text!r} is not a port; expected 1 to 65535")
    return int(text)


def _host(text: str, whole: str) -> str:
    """Return the host in its one spelling, so that equal hosts compare equal."""
    ip = _ip(text)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        # A socket bound to `::` reports IPv4 peers in this form.
        return str(ip.ipv4_mapped)
    if ip is not None:
        return str(ip)
    name = text.lower()
    looks_like_ip4 = name.replace(".", "").isdigit()
    if looks_like_ip4 or not _HOST_NAME.fullmatch(name):
        raise IdentityError(f"{whole!r}: {text!r} is not a host name or IP address; {_FORMS}")
    return name.rstrip(".")


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if not _IP.fullmatch(text):
        return None
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_ip(text: str, version: int) -> bool:
    ip = _ip(text)
    return ip is not None and ip.version == version
