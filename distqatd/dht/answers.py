"""What a node answers to FIND and STORE, bounded by what the asker's datagram paid for."""

import hashlib
from collections.abc import Callable
from typing import Any

from kademlia.node import Node  # noqa: TID251  dht is where kademlia lives

from distqatd.dht.contact import Endpoint, is_loopback, node_id
from distqatd.dht.datagram import HEADER_BYTES, pack
from distqatd.dht.limits import MAX_DATAGRAM, DhtLimits
from distqatd.dht.messages import AMPLIFICATION, Find, Status, Store
from distqatd.dht.quotas import source_of
from distqatd.dht.record import Record
from distqatd.dht.routing import Table
from distqatd.dht.storage import RecordStore

_FIND_REPLY_BYTES = HEADER_BYTES + 1 + 34 + 10 + 3 + 10 + 10 + 3
"""Header, list, key, token, contact list, digest, next page, record list."""

_CONTACTS_BESIDE_RECORDS = 200
"""Room that the longest record leaves in a datagram: four IPv4 contacts."""


class Answers:
    """Answers from the records and contacts of this node.

    Args:
        store: the records.
        table: the contacts.
        limits: for how long write tokens live.
        secret: makes write tokens; 16 unpredictable bytes.
        now: the loop's time.
    """

    def __init__(
        self,
        store: RecordStore,
        table: Table,
        limits: DhtLimits,
        secret: bytes,
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._table = table
        self._period_s = limits.token_period_s
        self._secret = secret
        self._now = now

    def find(self, request: Find, asker: bytes, endpoint: Endpoint, num_bytes: int) -> list[Any]:
        """Return the fields of a FIND reply to a request of `num_bytes`.

        Records go first, the nearest contacts into what room they leave, at least four.
        """
        room = min(MAX_DATAGRAM, AMPLIFICATION * num_bytes) - _FIND_REPLY_BYTES
        token = self._token(endpoint, 0)
        digest = self._store.digest(request.target) if request.values else b""
        first = not request.after
        if not digest or digest == request.have:
            contacts = self._nearest(request.target, asker, endpoint, room) if first else []
            return [token, contacts, digest, b"", []]
        reserved = _CONTACTS_BESIDE_RECORDS if first else 0
        page = self._store.page(request.target, request.after, room - reserved)
        room -= len(pack(page.records))
        contacts = self._nearest(request.target, asker, endpoint, room) if first else []
        return [token, contacts, digest, page.next_page, page.records]

    def store(self, request: Store, endpoint: Endpoint) -> list[Any]:
        """Keep a record and return the fields of the reply.

        Raises:
            RemoteProtocolError: the record is malformed.
        """
        if request.token not in (self._token(endpoint, 0), self._token(endpoint, 1)):
            return [Status.BAD_TOKEN.value, None]
        record, left_s = Record.parse(request.key, request.record)
        status = self._store.merge(record, left_s, source_of(endpoint))
        held = self._store.held(record.key, record.slot) if status is Status.STALE else None
        newer = None if held is None else held.record.wire(held.expires_at - self._now())
        return [status.value, newer]

    def _nearest(
        self, target: bytes, asker: bytes, endpoint: Endpoint, room: int
    ) -> list[list[Any]]:
        """Return the contacts that fit, none that has failed or that the asker cannot reach."""
        local = is_loopback(endpoint[0])
        kept = []
        for contact in self._table.find_neighbors(Node(target), exclude=node_id(asker)):
            if contact.num_failures or (is_loopback(contact.ip) and not local):
                continue
            entry = contact.wire()
            room -= len(pack(entry))
            if room < 0:
                break
            kept.append(entry)
        return kept

    def _token(self, endpoint: Endpoint, periods_ago: int) -> bytes:
        """Return what only somebody who receives at this endpoint can know."""
        period = int(self._now() // self._period_s) - periods_ago
        text = f"{period}/{endpoint[0]}/{endpoint[1]}".encode()
        return hashlib.blake2s(text, key=self._secret, digest_size=8).digest()
