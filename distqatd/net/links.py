"""The links of a daemon, at most one in use per peer."""

import asyncio
from dataclasses import dataclass, field

from distqatd.base.errors import DialError, DistqatError, Overloaded
from distqatd.base.ids import PeerId
from distqatd.net.address import Address
from distqatd.net.connection import Connection
from distqatd.wire.messages import Failure

SIMULTANEOUS_S = 10.0
"""Two links between the same peers that are made within this time may have crossed."""


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """A link, for people. `since_unix_s` is wall time, `rtt_s` None until measured."""

    peer_id: PeerId
    remote: Address
    rtt_s: float | None
    bytes_in: int
    bytes_out: int
    since_unix_s: float


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Bounds on what peers can make us hold."""

    max_links: int = 512
    bytes_in_flight: int = 1 << 30
    bytes_in_flight_per_peer: int = 1 << 29


@dataclass(slots=True)
class Dial:
    """A dial that several callers may wait for.

    Attributes:
        lost: why the link that was in use ended meanwhile, if it did.
        is_told: a link has just broken, and who wants to know of lost peers knows.
    """

    over: asyncio.Event = field(default_factory=asyncio.Event)
    outcome: Connection | DistqatError = field(
        default_factory=lambda: DialError("the daemon is stopping")
    )
    lost: str | None = None
    is_told: bool = False


@dataclass(frozen=True, slots=True)
class _Entry:
    link: Connection
    added_s: float
    since_unix_s: float


def keeps_old(*, old_dialer: PeerId, new_dialer: PeerId, smaller: PeerId, old_age_s: float) -> bool:
    """Decide which of two links between the same peers stays, the same way on both sides.

    A peer dials only when it has no link: so an old one has been lost on the other side, and the
    new one stays, unless both have dialled at once; then the link that the smaller id made does.
    """
    if old_dialer == new_dialer or old_age_s > SIMULTANEOUS_S:
        return False
    return old_dialer == smaller


class LinkTable:
    """Links in use by peer.

    Args:
        ours: our peer id.
        max_links: more are refused.
    """

    def __init__(self, ours: PeerId, max_links: int) -> None:
        self._ours = ours
        self._max_links = max_links
        self._entries: dict[PeerId, _Entry] = {}
        self._all: dict[Connection, None] = {}  # in order; with those being replaced

    def get(self, peer: PeerId) -> Connection | None:
        """Return the link to use for new requests."""
        entry = self._entries.get(peer)
        return entry.link if entry is not None and entry.link.usable else None

    def all(self) -> list[Connection]:
        """Return every link that has not ended."""
        return list(self._all)

    def check_room(self) -> None:
        """Check that one more link may be made.

        Raises:
            Overloaded: there are too many.
        """
        if len(self._all) >= self._max_links:
            raise Overloaded(f"{len(self._all)} links are open, the limit of this daemon")

    def add(self, link: Connection, now_unix_s: float) -> bool:
        """Add a link after its handshake; a second one to the same peer retires one of them.

        Returns:
            Whether the peer had no link before.
        """
        now_s = asyncio.get_running_loop().time()
        self._all[link] = None
        old = self._entries.get(link.peer_id)
        if old is not None and self._old_stays(old, link, now_s):
            link.retire(_REPLACED)
            return False
        self._entries[link.peer_id] = _Entry(link, now_s, now_unix_s)
        if old is not None:
            self._replace(old.link, link)
        return old is None

    def remove(self, link: Connection) -> bool:
        """Forget a link that has ended; return whether it was the one in use."""
        self._all.pop(link, None)
        entry = self._entries.get(link.peer_id)
        if entry is None or entry.link is not link:
            return False
        del self._entries[link.peer_id]
        return True

    def infos(self) -> tuple[LinkInfo, ...]:
        """Return the links in use."""
        return tuple(
            LinkInfo(
                entry.link.peer_id,
                entry.link.stream.remote,
                entry.link.rtt_s,
                entry.link.bytes_in,
                entry.link.bytes_out,
                entry.since_unix_s,
            )
            for entry in self._entries.values()
        )

    def _old_stays(self, old: _Entry, new: Connection, now_s: float) -> bool:
        if not old.link.usable or old.link.hello.boot_epoch != new.hello.boot_epoch:
            return False
        return keeps_old(
            old_dialer=self._dialer(old.link),
            new_dialer=self._dialer(new),
            smaller=min(self._ours, new.peer_id),
            old_age_s=now_s - old.added_s,
        )

    def _replace(self, old: Connection, new: Connection) -> None:
        if old.hello.boot_epoch != new.hello.boot_epoch:
            old.end("the peer has restarted")
        else:
            old.retire(_REPLACED)

    def _dialer(self, link: Connection) -> PeerId:
        return self._ours if link.dialer else link.peer_id


_REPLACED = Failure("closed", "replaced by another link between the same peers")
