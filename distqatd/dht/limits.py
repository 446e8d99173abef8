"""Every bound of the DHT in one place: sizes on the wire, times, counts."""

from dataclasses import dataclass

MAX_DATAGRAM = 1232
"""Bytes of UDP payload: the IPv6 minimum MTU less headers, so nothing is ever fragmented."""

MAX_VALUE = 700
"""Bytes of a record's value; larger things are pointers, fetched over TCP."""

MAX_KEY = 128
"""Bytes of a key, as UTF-8."""

MAX_SUBKEY = 96
"""Bytes of a subkey, as UTF-8."""

MAX_TTL_MS = 3_600_000
"""The longest a record may live without a new one from its publisher: one hour."""


@dataclass(frozen=True, slots=True)
class DhtLimits:
    """What one node holds, asks and waits for at most.

    A *source* is an IPv4 address, an IPv6 /64, or, on loopback, where one address is many peers,
    an address and port.
    """

    bucket_size: int = 20
    """Contacts per bucket: kademlia's k."""

    parallel: int = 4
    """Unanswered, not yet slow queries of one lookup: kademlia's alpha."""

    replicas: int = 8
    """Nodes a record is stored on. 8 copies survive half of all nodes dying at once in 99.6 %."""

    quorum: int = 3
    """Holders whose record sets a get merges before it answers."""

    tries: int = 4
    """Transmissions of one request."""

    min_rto_s: float = 0.1
    max_rto_s: float = 1.0
    initial_rtt_s: float = 0.05

    lookup_timeout_s: float = 10.0
    """A lookup returns what it has after this, whatever peers do."""

    stop_timeout_s: float = 1.0
    """How long leaving may take to write tombstones."""

    max_calls: int = 1024
    """Requests of ours waiting for an answer."""

    max_proofs: int = 64
    """Strangers being asked to prove themselves at once, and 8 of one source."""

    max_proofs_per_source: int = 8

    contacts_per_source: int = 64
    forget_failed_s: float = 30.0
    """A contact that failed is not taken from others' answers again for this long."""

    evict_after_failures: int = 2

    records: int = 16_384
    records_per_key: int = 256
    records_per_publisher: int = 256
    records_per_source: int = 2048
    spent_slots: int = 4096
    """Expired slots whose sequence number is remembered, so that a replay does not revive them."""

    verified_signatures: int = 2048

    datagrams_per_s: float = 1000.0
    """Authentic datagrams per source: a token bucket of twice this size refills at this rate."""

    max_sources: int = 4096

    token_period_s: float = 300.0
    """A write token lives between one and two periods."""

    max_pages: int = 64
    """Pages of one record set fetched from one holder."""

    check_every_s: float = 10.0
    silent_contact_s: float = 60.0
    """The longest-silent contact is asked something after this long without a word."""

    refresh_bucket_s: float = 600.0
    rejoin_reached_s: float = 60.0
    """How often an initial peer that did answer is contacted again."""
