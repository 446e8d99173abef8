"""kademlia's Server with our protocol in its slot: the socket's life, lookups, one-record writes.

Kept from the library: the object that ties node, storage and protocol together, listening and
stopping, `bootstrappable_neighbors`. Its own get, set, bootstrap, refresh and pickled state are
replaced or refused; docs/kademlia.md says why. No task is started here.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from kademlia.network import Server  # noqa: TID251  dht is where kademlia lives
from kademlia.node import Node  # noqa: TID251

from distqatd.base.errors import LocalProtocolError
from distqatd.base.rng import Rng
from distqatd.dht.contact import Contact, Endpoint, node_id
from distqatd.dht.limits import DhtLimits
from distqatd.dht.lookup import Found, Holder, Lookup
from distqatd.dht.messages import Find, FindReply, Store, StoreReply
from distqatd.dht.protocol import DhtProtocol, loop_now
from distqatd.dht.record import Record, Verifier, key_id
from distqatd.dht.search import Collector
from distqatd.dht.storage import RecordStore
from distqatd.identity.keys import Identity

OpenDatagrams = Callable[[str, int, asyncio.DatagramProtocol], Awaitable[asyncio.DatagramTransport]]
"""How a UDP socket is opened: `net.transport.Transport.datagrams`, or the simulator's."""


class DhtServer(Server):  # type: ignore[misc]
    """A node: socket, contacts, records, and the operations on one key.

    Args:
        identity: the peer's key.
        datagram_key: 32 bytes, the swarm's.
        verifier: checks records of this swarm.
        open_datagrams: opens the socket.
        rng: unpredictable in production.
        limits: all bounds.
        on_contact: told of each contact that enters the table.
    """

    storage: RecordStore
    protocol: DhtProtocol

    def __init__(
        self,
        identity: Identity,
        datagram_key: bytes,
        verifier: Verifier,
        open_datagrams: OpenDatagrams,
        rng: Rng,
        limits: DhtLimits,
        on_contact: Callable[[Contact], None],
    ) -> None:
        store = RecordStore(limits, verifier, loop_now)
        super().__init__(limits.bucket_size, limits.parallel, node_id(identity.public_key), store)
        self.is_listening = False
        self.limits = limits
        self.verifier = verifier
        self._identity = identity
        self._datagram_key = datagram_key
        self._open_datagrams = open_datagrams
        self._rng = rng
        self._on_contact = on_contact

    def _create_protocol(self) -> DhtProtocol:
        return DhtProtocol(
            self._identity,
            self._datagram_key,
            self.verifier.domain,
            self.storage,
            self.limits,
            self._rng,
            self._on_contact,
        )

    async def listen(self, port: int, interface: str = "0.0.0.0") -> None:  # noqa: S104  as upstream
        """Open the socket.

        Raises:
            PortInUse: the port is taken.
        """
        self.protocol = self._create_protocol()
        self.transport = await self._open_datagrams(interface, port, self.protocol)
        self.is_listening = True

    async def find_holders(self, key: str) -> tuple[Holder, ...]:
        """Return the nodes that should hold a key, nearest first, with write tokens."""
        replicas = self.limits.replicas
        found = await Lookup(self.protocol, key_id(key), replicas).run()
        return found.holders[:replicas]

    async def find_records(self, key: str) -> Found:
        """Return the records of a key from the nodes that hold it; ours are not among them."""
        limits = self.limits
        collector = Collector(key, self.verifier, limits.records_per_key, limits.max_pages)
        have = self.storage.digest(key_id(key))
        return await Lookup(self.protocol, key_id(key), limits.replicas, collector, have).run()

    async def find_nodes(self, target: bytes, also: tuple[Contact, ...] = ()) -> Found:
        """Return the nodes nearest to an id; on the way both sides learn of each other."""
        return await Lookup(self.protocol, target, self.limits.bucket_size).run(also)

    async def refresh_buckets(self) -> None:
        """Look up a random id in each bucket that no lookup went through for long."""
        for bucket in self.protocol.router.lonely_buckets():
            await self.find_nodes(self._rng.randint(*bucket.range).to_bytes(20, "big"))

    async def prove(self, endpoint: Endpoint) -> Contact | None:
        """Ask whoever is at an endpoint who it is."""
        proven: asyncio.Future[Contact | None] = asyncio.get_running_loop().create_future()
        self.protocol.proofs.ask(endpoint, None, _resolver(proven))
        return await proven

    async def check(self, contact: Contact) -> None:
        """Ask a contact for the nodes near us; if it is gone, that is counted against it."""
        answered: asyncio.Future[FindReply | None] = asyncio.get_running_loop().create_future()
        find = Find(self.node.id, values=False)
        self.protocol.ask_find(contact, find, _resolver(answered))
        await answered

    async def put(self, record: Record, holders: tuple[Holder, ...]) -> list[StoreReply | None]:
        """Send a record to each holder, all at once; None where no answer came."""
        loop = asyncio.get_running_loop()
        replies: list[asyncio.Future[StoreReply | None]] = []
        for holder in holders:
            replies.append(loop.create_future())
            store = Store(holder.token, record.key, record.wire(record.ttl_s))
            self.protocol.ask_store(holder.contact, store, _resolver(replies[-1]))
        return [await reply for reply in replies]

    def nearest_contacts(self, key: str) -> list[Contact]:
        """Return who in our table should hold a key."""
        target = Node(key_id(key))
        found: list[Contact] = self.protocol.router.find_neighbors(target, self.limits.replicas)
        return found

    def refresh_table(self, interval: int = 3600) -> None:
        """Do nothing: upstream starts a task here that nobody owns; `Dht.run` refreshes."""

    def _refused(self, *_: Any, **__: Any) -> NoReturn:
        raise LocalProtocolError("this part of kademlia is not used; see docs/kademlia.md")

    bootstrap = bootstrap_node = get = set = set_digest = _refused
    save_state = load_state = save_state_regularly = _refused


def _resolver(future: asyncio.Future[Any]) -> Callable[[Any], None]:
    """Return a callback that resolves a future unless whoever waited has been cancelled."""

    def resolve(value: Any) -> None:
        if not future.done():
            future.set_result(value)

    return resolve
