"""Who may connect at all: counted before TLS, since a handshake costs more than a refusal."""

import ipaddress
from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GateLimits:
    """Bounds on connections that others make."""

    max_total: int = 1024
    max_per_address: int = 64
    max_handshakes: int = 64
    handshake_timeout_s: float = 5.0


class Gate:
    """Counts connections by where they come from; an IPv6 network of 64 bits is one place."""

    def __init__(self, limits: GateLimits) -> None:
        self._limits = limits
        self._by_place: Counter[str] = Counter()
        self._num_handshakes = 0

    @property
    def num_connections(self) -> int:
        """Return how many are open."""
        return self._by_place.total()

    def enter(self, host: str) -> bool:
        """Count a connection and its handshake; False if it must be shed."""
        place = _place(host)
        if (
            self._num_handshakes >= self._limits.max_handshakes
            or self._by_place[place] >= self._limits.max_per_address
            or self._by_place.total() >= self._limits.max_total
        ):
            return False
        self._by_place[place] += 1
        self._num_handshakes += 1
        return True

    def handshake_over(self) -> None:
        """Count a handshake as over, well or badly."""
        self._num_handshakes -= 1

    def leave(self, host: str) -> None:
        """Count a connection as closed."""
        place = _place(host)
        self._by_place[place] -= 1
        if not self._by_place[place]:
            del self._by_place[place]


def plain_host(host: str) -> str:
    """Return an IPv4 address that came over an IPv6 socket as IPv4, without a scope."""
    address = ipaddress.ip_address(host.split("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _place(host: str) -> str:
    address = ipaddress.ip_address(host)
    if address.version == 4:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False))
