"""Who may ask how much: a token bucket per source, for a bounded number of sources."""

import ipaddress
from collections import OrderedDict

from distqatd.dht.contact import Endpoint, is_loopback


def source_of(endpoint: Endpoint) -> str:
    """Return whom a quota is charged to: an IPv4 address or an IPv6 /64.

    On loopback one address is many peers, so there the port counts as well.
    """
    ip, port = endpoint
    if is_loopback(ip):
        return f"{ip}:{port}"
    if ":" not in ip:
        return ip
    return str(ipaddress.ip_network((ip, 64), strict=False))


class RateLimiter:
    """Allows each source `rate` events per second, and bursts of twice that.

    Of more than `max_sources` the one silent longest is forgotten, that is, gets a full bucket
    back. Charge only what is authentic: an unproven address would empty someone else's bucket.
    """

    def __init__(self, rate: float, max_sources: int) -> None:
        self._rate = rate
        self._burst = 2 * rate
        self._max_sources = max_sources
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allow(self, source: str, now: float) -> bool:
        """Take one token of `source` if it has one."""
        tokens, filled_at = self._buckets.pop(source, (self._burst, now))
        tokens = min(self._burst, tokens + (now - filled_at) * self._rate)
        allowed = tokens >= 1
        self._buckets[source] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > self._max_sources:
            self._buckets.popitem(last=False)
        return allowed
