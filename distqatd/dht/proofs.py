"""Proofs of place: a contact enters the table only after signing our nonce from its address."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from distqatd.base.errors import RemoteProtocolError
from distqatd.base.rng import Rng
from distqatd.dht.calls import Calls
from distqatd.dht.contact import Contact, Endpoint, node_id, pack_ip
from distqatd.dht.limits import DhtLimits
from distqatd.dht.messages import Hello, parse_hello_reply
from distqatd.dht.quotas import source_of
from distqatd.dht.routing import Table
from distqatd.identity.keys import Identity, verify

OnProven = Callable[[Contact | None], None]


class Proofs:
    """Asks strangers for proof, a bounded number at once, and of one source.

    The signature covers the address we asked and our key, so it is good for nothing else. That
    leaves a member that relays our question to another one: it cannot be told from a port
    forwarder, and gains as much as one does, a say in whether packets arrive. A proven contact
    that answers is never replaced by another address.
    """

    def __init__(
        self,
        identity: Identity,
        domain: bytes,
        table: Table,
        calls: Calls,
        limits: DhtLimits,
        rng: Rng,
        on_contact: Callable[[Contact], None],
    ) -> None:
        self._identity = identity
        self._domain = domain
        self._table = table
        self._calls = calls
        self._limits = limits
        self._rng = rng
        self._on_contact = on_contact
        self._pending: dict[Endpoint, str] = {}
        self._per_source: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return how many strangers are being asked."""
        return len(self._pending)

    def answer(self, request: Hello, asker: bytes) -> bytes:
        """Return our own proof."""
        return self._identity.sign(request.signed_bytes(self._domain, asker))

    def consider(self, public_key: bytes, endpoint: Endpoint) -> None:
        """Note that somebody spoke; ask for proof if it is a stranger the table has room for."""
        contact_id = node_id(public_key)
        if self._table.heard(contact_id, endpoint):
            return
        known = self._table.find(contact_id)
        wanted = (
            self._table.wants(contact_id, endpoint)
            if known is None
            else self._table.may_move(known)
        )
        source = source_of(endpoint)
        busy = (
            endpoint in self._pending
            or len(self._pending) >= self._limits.max_proofs
            or self._per_source[source] >= self._limits.max_proofs_per_source
        )
        if busy or not wanted:
            return
        self._pending[endpoint] = source
        self._per_source[source] += 1
        self.ask(endpoint, public_key, lambda _: self._done(endpoint))

    def ask(self, endpoint: Endpoint, expected: bytes | None, on_done: OnProven) -> None:
        """Ask whoever is at `endpoint` (or only `expected`) to sign a nonce.

        `on_done` gets the contact, in the table if there was room, or None. If we are there
        ourselves it gets us, and the table does not.
        """
        hello = Hello(self._rng.randbytes(16), pack_ip(endpoint[0]), endpoint[1])

        def finish(fields: list[Any] | None) -> None:
            contact = self._check(hello, endpoint, expected, fields)
            if contact is None and expected is not None:
                self._table.failed(Contact(expected, *endpoint))
            if contact is not None and self._table.add_contact(contact):
                self._on_contact(contact)
            on_done(contact)

        self._calls.start(endpoint, hello.pack(self._identity.public_key), finish)

    def _check(
        self, hello: Hello, endpoint: Endpoint, expected: bytes | None, fields: list[Any] | None
    ) -> Contact | None:
        if fields is None or expected not in (None, fields[0]):
            return None
        if fields[0] == self._identity.public_key:
            return Contact(fields[0], *endpoint)  # `calls` saw our own request come back
        try:
            signature = parse_hello_reply(fields)
        except RemoteProtocolError:
            return None
        signed = hello.signed_bytes(self._domain, self._identity.public_key)
        if not verify(fields[0], signature, signed):
            return None
        return Contact(fields[0], *endpoint)

    def _done(self, endpoint: Endpoint) -> None:
        source = self._pending.pop(endpoint)
        self._per_source[source] -= 1
        if not self._per_source[source]:
            del self._per_source[source]
