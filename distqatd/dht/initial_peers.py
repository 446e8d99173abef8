"""The peers we were told to ask first: contacted again and again, for as long as we live.

Two groups that started apart, each around another initial peer, merge as soon as any member of
one reaches the initial peer of the other; so nobody ever stops trying. A peer of another swarm
does not answer our datagrams at all; over UDP that looks like a peer that is down, and the TCP
HELLO tells the difference.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from distqatd.base.backoff import Backoff
from distqatd.base.events import EventLog
from distqatd.base.rng import Rng
from distqatd.dht.contact import Contact, Endpoint
from distqatd.dht.protocol import loop_now
from distqatd.dht.server import DhtServer
from distqatd.net.address import Address

RESOLVE_TIMEOUT_S = 5.0
MAX_INITIAL_PEERS = 1000
NO_ANSWER = "no answer to our datagrams: not running, blocked, or of another swarm"


@dataclass(frozen=True, slots=True)
class Unreachable:
    """An initial peer that does not let us in, and why, for people."""

    address: Address
    reason: str


@dataclass(slots=True)
class _InitialPeer:
    address: Address
    reached: bool = False
    reported: bool = False
    reason: str = "not tried yet"
    num_failures: int = 0
    due_at: float = 0.0


class InitialPeers:
    """Knows which initial peers were reached, and keeps trying all of them."""

    def __init__(self, server: DhtServer, rng: Rng, events: EventLog) -> None:
        self._server = server
        self._rng = rng
        self._events = events
        self._peers: dict[Address, _InitialPeer] = {}
        self._remembered: tuple[Endpoint, ...] = ()
        self._backoff = Backoff(first_s=1.0, cap_s=30.0)

    @property
    def unreachable(self) -> tuple[Unreachable, ...]:
        """Return the initial peers that did not answer last time, with the reason."""
        silent = (peer for peer in self._peers.values() if not peer.reached)
        return tuple(Unreachable(peer.address, peer.reason) for peer in silent)

    async def join(self, addresses: Sequence[Address]) -> int:
        """Contact these now, and from `run` on for ever; return how many peers were reached."""
        for address in addresses[:MAX_INITIAL_PEERS]:
            self._peers.setdefault(address, _InitialPeer(address))
        peers = [self._peers[address] for address in dict.fromkeys(addresses[:MAX_INITIAL_PEERS])]
        return await self._contact_all(peers)

    async def run(self) -> None:
        """Contact every initial peer again: soon if it was silent, now and then if it was not."""
        while True:
            due = [peer for peer in self._peers.values() if peer.due_at <= loop_now()]
            await self._contact_all(due)
            await self._keep_a_way_back()
            await asyncio.sleep(1.0)

    async def _contact_all(self, peers: Iterable[_InitialPeer]) -> int:
        """Contact peers at once; if some are new to us, look ourselves up through them."""
        known = {contact.id for contact in self._server.protocol.router}
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(self._contact(peer), name="dht.join") for peer in peers]
        contacts = [contact for task in asked if (contact := task.result()) is not None]
        new = tuple(contact for contact in contacts if contact.id not in known)
        if new:
            await self._server.find_nodes(self._server.node.id, also=new)
        return len({contact.id for contact in contacts} - {self._server.node.id})

    async def _contact(self, peer: _InitialPeer) -> Contact | None:
        endpoints, reason = await self._resolve(peer.address)
        contact = None
        for endpoint in endpoints:
            contact = await self._server.prove(endpoint)
            if contact is not None:
                break
        self._note(peer, contact, reason)
        return contact

    def _note(self, peer: _InitialPeer, contact: Contact | None, reason: str) -> None:
        was_reached, peer.reached = peer.reached, contact is not None
        address = peer.address.host_port()
        if contact is None:
            peer.num_failures += 1
            peer.reason = reason
            peer.due_at = loop_now() + self._backoff.delay_s(peer.num_failures, self._rng)
            if was_reached or not peer.reported:
                self._report("dht.initial_peer.silent", address, reason, degraded=True)
        else:
            peer.num_failures = 0
            peer.due_at = loop_now() + self._server.limits.rejoin_reached_s
            if not was_reached:
                self._report("dht.initial_peer.reached", address, "", degraded=False)
        peer.reported = True

    def _report(self, kind: str, address: str, reason: str, *, degraded: bool) -> None:
        self._events.emit(kind, degraded=degraded, address=address, reason=reason)

    async def _resolve(self, address: Address) -> tuple[tuple[Endpoint, ...], str]:
        """Return the endpoints of an address this socket can send to, and why if none answers."""
        hosts = [address.host] if _is_ip(address.host) else await _look_up(address)
        endpoints = tuple((host, address.port) for host in hosts if "%" not in host)
        if not endpoints:
            return (), f"{address.host} does not resolve"
        reachable = tuple(filter(self._server.protocol.reaches, endpoints))
        if not reachable:
            return (), f"{address.host} is IPv6 and we listen on IPv4 only"
        return reachable, NO_ANSWER

    async def _keep_a_way_back(self) -> None:
        """Remember some contacts; if all are lost (our own network was), ask them again."""
        near = tuple(self._server.bootstrappable_neighbors())
        if near:
            self._remembered = near
            return
        for endpoint in self._remembered:
            contact = await self._server.prove(endpoint)
            if contact is not None:
                await self._server.find_nodes(self._server.node.id, also=(contact,))
                return


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _look_up(address: Address) -> list[str]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
    except (OSError, TimeoutError, UnicodeError):
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
