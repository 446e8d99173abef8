"""One lookup under way: the decisions of `search` applied to the network."""

import asyncio
from dataclasses import dataclass, field

from kademlia.node import Node  # noqa: TID251  dht is where kademlia lives

from distqatd.dht.contact import Contact, is_loopback
from distqatd.dht.messages import Find, FindReply
from distqatd.dht.protocol import DhtProtocol
from distqatd.dht.record import Record, Slot
from distqatd.dht.search import Collector, PageWanted, Search


@dataclass(frozen=True, slots=True)
class Holder:
    """A node that answered, and the token that lets us write to it."""

    contact: Contact
    token: bytes


@dataclass(frozen=True, slots=True)
class Found:
    """What a lookup came back with: holders nearest first, verified records by slot."""

    holders: tuple[Holder, ...]
    records: dict[Slot, Record] = field(default_factory=dict)
    depth: int = 0
    num_queries: int = 0


class Lookup:
    """Finds the nodes nearest to an id, and with a collector the records there.

    Queries live in the protocol's call table; a lookup that is done or cancelled leaves them to
    time out there, so that who is dead is learned even if nobody waits for it.
    """

    def __init__(
        self,
        protocol: DhtProtocol,
        target: bytes,
        width: int,
        collector: Collector | None = None,
        have: bytes = b"",
    ) -> None:
        self._protocol = protocol
        self._target = target
        self._collector = collector
        self._have = have
        own: Node = protocol.source_node
        self._search = Search(Node(target).long_id, own.id, width, protocol.limits)
        self._tokens: dict[bytes, bytes] = {}
        self._changed = asyncio.Event()
        self._num_pages_open = 0
        self._num_queries = 0
        self._is_open = True

    async def run(self, also: tuple[Contact, ...] = ()) -> Found:
        """Look up, starting from our table and `also`; bounded in time."""
        table = self._protocol.router
        target = Node(self._target)
        table.touch_bucket(target)
        self._search.learn((*table.find_neighbors(target), *also), depth=0)
        try:
            async with asyncio.timeout(self._protocol.limits.lookup_timeout_s):
                await self._drive()
        except TimeoutError:
            pass  # what has been found by now is the answer
        finally:
            self._is_open = False  # late answers still tell the table who is alive
        nearest = self._search.nearest()
        return Found(
            tuple(Holder(contact, self._tokens[contact.id]) for contact in nearest),
            {} if self._collector is None else self._collector.records,
            self._search.depth,
            self._num_queries,
        )

    async def _drive(self) -> None:
        while True:
            if self._is_done():
                return
            in_hand = 0 if self._collector is None else self._collector.num_complete
            for contact in self._search.next_to_ask(in_hand):
                self._ask(contact)
            self._changed.clear()
            await self._changed.wait()

    def _is_done(self) -> bool:
        if self._collector is None:
            return self._search.finished
        if self._collector.num_complete >= self._protocol.limits.quorum:
            return True
        return self._search.finished and not self._num_pages_open

    def _ask(self, contact: Contact) -> None:
        self._num_queries += 1

        def on_slow(num_timeouts: int) -> None:
            self._search.slow(contact, num_timeouts)
            self._changed.set()

        def on_reply(reply: FindReply | None) -> None:
            if not self._is_open:
                return
            if reply is None:
                self._search.failed(contact)
            else:
                self._learn(contact, reply)
                self._collect(contact, reply)
            self._changed.set()

        self._protocol.ask_find(contact, self._request(b""), on_reply, on_slow)

    def _ask_page(self, page: PageWanted) -> None:
        self._num_queries += 1
        self._num_pages_open += 1

        def on_reply(reply: FindReply | None) -> None:
            if not self._is_open:
                return
            self._num_pages_open -= 1
            self._collect(page.holder, reply, page)
            self._changed.set()

        self._protocol.ask_find(page.holder, self._request(page.after), on_reply)

    def _request(self, after: bytes) -> Find:
        return Find(self._target, self._collector is not None, after, self._have)

    def _learn(self, contact: Contact, reply: FindReply) -> None:
        depth = self._search.answered(contact)
        self._tokens[contact.id] = reply.token
        local = is_loopback(contact.ip)
        self._search.learn(
            (
                named
                for named in reply.contacts
                if (local or not is_loopback(named.ip))
                and self._protocol.reaches(named.endpoint)
                and not self._protocol.router.failed_lately(named)
            ),
            depth,
        )

    def _collect(
        self, holder: Contact, reply: FindReply | None, page: PageWanted | None = None
    ) -> None:
        if self._collector is None:
            return
        wanted = self._collector.add(holder, reply, page)
        if wanted is not None:
            self._ask_page(wanted)
