"""One node on its socket: the place of kademlia's protocol, with another wire.

Everything here is synchronous and total: a datagram makes no task and lets no error escape.
"""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar, cast

from kademlia.node import Node  # noqa: TID251  dht is where kademlia lives
from kademlia.protocol import KademliaProtocol  # noqa: TID251

from distqatd.base.errors import RemoteProtocolError
from distqatd.base.rng import Rng
from distqatd.dht.answers import Answers
from distqatd.dht.calls import Calls, OnDone, OnSlow
from distqatd.dht.contact import Contact, Endpoint, endpoint_of, node_id
from distqatd.dht.datagram import REPLY, REQUEST, pack, seal, unpack, unseal
from distqatd.dht.limits import DhtLimits
from distqatd.dht.messages import (
    Find,
    FindReply,
    Hello,
    Request,
    Store,
    StoreReply,
    parse_find_reply,
    parse_request,
    parse_store_reply,
)
from distqatd.dht.proofs import Proofs
from distqatd.dht.quotas import RateLimiter, source_of
from distqatd.dht.routing import Table
from distqatd.dht.storage import RecordStore
from distqatd.identity.keys import Identity

RECEIVE_BUFFER_BYTES = 1 << 20
"""The kernel's default drops bursts over some 200 datagrams."""

T = TypeVar("T")


@dataclass(slots=True)
class Counters:
    """Datagrams since the start."""

    received: int = 0
    dropped: int = 0
    limited: int = 0
    sent: int = 0
    unsendable: int = 0


class DhtProtocol(KademliaProtocol):  # type: ignore[misc]
    """Answers the swarm's datagrams and asks its nodes.

    Args:
        identity: signs proofs; its key gives the node's id.
        datagram_key: 32 bytes, the swarm's.
        domain: separates signatures of one swarm from those of another.
        store: where records are kept.
        limits: all bounds.
        rng: message ids, nonces and the token secret; unpredictable in production.
        on_contact: told of each contact that enters the table.
    """

    transport: asyncio.DatagramTransport | None

    def __init__(
        self,
        identity: Identity,
        datagram_key: bytes,
        domain: bytes,
        store: RecordStore,
        limits: DhtLimits,
        rng: Rng,
        on_contact: Callable[[Contact], None],
    ) -> None:
        super().__init__(Node(node_id(identity.public_key)), store, limits.bucket_size)
        self.limits = limits
        self.counters = Counters()
        self.router: Table = Table(self, self.source_node, limits, loop_now)
        self.calls = Calls(self._send_request, limits, rng)
        self.proofs = Proofs(identity, domain, self.router, self.calls, limits, rng, on_contact)
        self.answers = Answers(store, self.router, limits, rng.randbytes(16), loop_now)
        self._public_key = identity.public_key
        self._datagram_key = datagram_key
        self._rate = RateLimiter(limits.datagrams_per_s, limits.max_sources)
        self._is_ipv6 = False

    def __getattr__(self, name: str) -> NoReturn:
        """Refuse: rpcudp turns any unknown attribute into a remote call, so a typo goes out."""
        raise AttributeError(name)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the socket, and ask the kernel for a larger receive buffer."""
        self.transport = cast(asyncio.DatagramTransport, transport)
        name = transport.get_extra_info("sockname")
        self._is_ipv6 = name is not None and ":" in name[0]
        udp = transport.get_extra_info("socket")
        if udp is not None:
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the calls under way; nothing can answer them any more."""
        self.calls.close()

    def error_received(self, exc: Exception) -> None:
        """Ignore an ICMP error: anybody can forge one, and timeouts find out as well."""

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """Answer, resolve a call, or drop; in microseconds if the sender is no member."""
        self.counters.received += 1
        try:
            self._receive(data, addr)
        except RemoteProtocolError:
            self.counters.dropped += 1

    def reaches(self, endpoint: Endpoint) -> bool:
        """Return whether this socket is of a family that can send there."""
        return self._is_ipv6 or ":" not in endpoint[0]

    def ask_find(
        self,
        contact: Contact,
        request: Find,
        on_done: Callable[[FindReply | None], None],
        on_slow: OnSlow | None = None,
    ) -> None:
        """Send FIND; `on_done` gets None for no answer or a broken one."""

        def finish(fields: list[Any] | None) -> None:
            reply = self._checked(contact, fields, self._parse_found)
            if reply is not None:
                self.proofs.consider(contact.public_key, contact.endpoint)
            on_done(reply)

        self._call(contact, request, finish, on_slow)

    def ask_store(
        self, contact: Contact, request: Store, on_done: Callable[[StoreReply | None], None]
    ) -> None:
        """Send STORE; `on_done` gets None for no answer or a broken one."""

        def finish(fields: list[Any] | None) -> None:
            on_done(self._checked(contact, fields, parse_store_reply))

        self._call(contact, request, finish)

    def _call(
        self, contact: Contact, request: Request, on_done: OnDone, on_slow: OnSlow | None = None
    ) -> None:
        self.calls.start(contact.endpoint, request.pack(self._public_key), on_done, on_slow)

    def _receive(self, data: bytes, addr: tuple[Any, ...]) -> None:
        kind, message_id, body = unseal(self._datagram_key, data)
        endpoint = endpoint_of(addr)
        if not self._rate.allow(source_of(endpoint), loop_now()):
            self.counters.limited += 1
            return
        fields = unpack(body)
        if fields[0] == self._public_key:
            self.calls.reflect(message_id, fields)
        elif kind == REQUEST:
            self._serve(message_id, endpoint, fields, len(data))
        elif not self.calls.answer(message_id, endpoint, fields):
            self._stray_reply(message_id, endpoint, fields)

    def _stray_reply(self, message_id: bytes, endpoint: Endpoint, fields: list[Any]) -> None:
        """Drop a reply; but if it answers us from another address of the same machine, go there.

        A host with several addresses may send from another one than it was asked at.
        """
        if self.calls.is_pending(message_id):
            self.proofs.consider(fields[0], endpoint)
        raise RemoteProtocolError("nobody waits for this reply from there")

    def _serve(
        self, message_id: bytes, endpoint: Endpoint, fields: list[Any], num_bytes: int
    ) -> None:
        request = parse_request(fields)
        asker: bytes = fields[0]
        if isinstance(request, Hello):
            reply: list[Any] = [self.proofs.answer(request, asker)]
        elif isinstance(request, Find):
            reply = self.answers.find(request, asker, endpoint, num_bytes)
        else:
            reply = self.answers.store(request, endpoint)
        self._send(REPLY, message_id, pack([self._public_key, *reply]), endpoint)
        if not isinstance(request, Hello):  # a proof of a proof would never end
            self.proofs.consider(asker, endpoint)

    def _send_request(self, message_id: bytes, body: bytes, endpoint: Endpoint) -> None:
        self._send(REQUEST, message_id, body, endpoint)

    def _send(self, kind: int, message_id: bytes, body: bytes, endpoint: Endpoint) -> None:
        """Send, or count what this socket cannot send to; a timeout follows from that."""
        ip, port = endpoint
        closed = self.transport is None or self.transport.is_closing()
        if closed or not self.reaches(endpoint):
            self.counters.unsendable += 1
            return
        if self._is_ipv6 and ":" not in ip:
            ip = "::ffff:" + ip
        datagram = seal(self._datagram_key, kind, message_id, body)
        try:
            self.transport.sendto(datagram, (ip, port))  # type: ignore[union-attr]
            self.counters.sent += 1
        except (OSError, ValueError):  # ValueError: uvloop, for an address it cannot use
            self.counters.unsendable += 1

    def _parse_found(self, fields: list[Any]) -> FindReply:
        return parse_find_reply(fields, self.limits.bucket_size)

    def _checked(
        self, contact: Contact, fields: list[Any] | None, parse: Callable[[list[Any]], T]
    ) -> T | None:
        """Return the parsed reply, or None and a mark against the contact."""
        reply = None
        if fields is not None and fields[0] == contact.public_key:
            try:
                reply = parse(fields)
            except RemoteProtocolError:
                self.counters.dropped += 1
        if reply is None and not self.calls.is_full:  # what we did not send is nobody's fault
            self.router.failed(contact)
        return reply


def loop_now() -> float:
    """Return the running loop's time, the only clock of the DHT."""
    return asyncio.get_running_loop().time()
