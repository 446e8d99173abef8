"""Whom a daemon does not believe in although their records live on.

    believed ──link lost, call failed──► absent ──newer record──► returning ──answers──► believed
        ▲                                  ▲                          │
        └──── record of a later life ──────┘◄────────no answer────────┘

A record may have been written right before its peer died, and be read only afterwards: it is no
sign of life. And what a former life of a peer has published is not true of the present one.
"""

from collections import OrderedDict

from distqatd.base.events import EventLog
from distqatd.base.ids import PeerId

MAX_PEERS = 4096
MAX_RECORDS_PER_PEER = 64
"""Bounds of what is remembered of peers: the longest known goes, and further records are skipped.
"""

RecordSlot = tuple[str, str]
"""A record's key and subkey."""


class Absence:
    """Decides record by record; `returning` are those who should be asked whether they live."""

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._seqs: OrderedDict[PeerId, dict[RecordSlot, int]] = OrderedDict()
        self._epochs: OrderedDict[PeerId, int] = OrderedDict()
        self._absent: OrderedDict[PeerId, dict[RecordSlot, int]] = OrderedDict()
        self.returning: set[PeerId] = set()

    def __contains__(self, peer_id: PeerId) -> bool:
        """Return whether we take a peer for dead."""
        return peer_id in self._absent

    @property
    def known(self) -> frozenset[PeerId]:
        """Return whose records we have seen."""
        return frozenset(self._seqs)

    def mark(self, peer_id: PeerId, reason: str) -> None:
        """Leave a peer's present records out until it speaks again."""
        if peer_id not in self._absent and peer_id in self._seqs:
            self._events.emit("peer.left_out", peer=peer_id, reason=reason)
        self._absent[peer_id] = dict(self._seqs.get(peer_id, {}))
        self.returning.discard(peer_id)
        _trim(self._absent)

    def came_back(self, peer_id: PeerId) -> None:
        """Believe in a peer again: it has answered, or lives anew."""
        self.returning.discard(peer_id)
        if self._absent.pop(peer_id, None) is not None:
            self._events.emit("peer.back", peer=peer_id)

    def stayed_away(self, peer_id: PeerId) -> None:
        """Take note that a peer did not answer: only what it publishes from now on counts."""
        self.returning.discard(peer_id)
        if peer_id in self._absent:
            self._absent[peer_id] = dict(self._seqs.get(peer_id, {}))

    def believes(self, peer_id: PeerId, slot: RecordSlot, seq: int, boot_epoch: int) -> bool:
        """Return whether a record counts: of a peer that lives, from its present life."""
        if not self._note(peer_id, slot, seq):
            return False
        if self.is_former(peer_id, boot_epoch):
            return False
        known_epoch = self._epochs.get(peer_id, boot_epoch)
        self._epochs[peer_id] = boot_epoch
        self._epochs.move_to_end(peer_id)
        _trim(self._epochs)
        if boot_epoch > known_epoch:
            self.came_back(peer_id)
        return not self._is_absent(peer_id, slot, seq)

    def is_former(self, peer_id: PeerId, boot_epoch: int) -> bool:
        """Return whether a peer has lived again since it published under `boot_epoch`."""
        return boot_epoch < self._epochs.get(peer_id, boot_epoch)

    def _is_absent(self, peer_id: PeerId, slot: RecordSlot, seq: int) -> bool:
        seqs = self._absent.get(peer_id)
        if seqs is None:
            return False
        if seq > seqs.get(slot, -1):
            self.returning.add(peer_id)
        return True

    def _note(self, peer_id: PeerId, slot: RecordSlot, seq: int) -> bool:
        """Remember how new a record is; False if the peer has too many."""
        seqs = self._seqs.setdefault(peer_id, {})
        self._seqs.move_to_end(peer_id)
        _trim(self._seqs)
        if slot not in seqs and len(seqs) >= MAX_RECORDS_PER_PEER:
            return False
        seqs[slot] = seq
        return True


def _trim(table: "OrderedDict[PeerId, int] | OrderedDict[PeerId, dict[RecordSlot, int]]") -> None:
    """Forget the longest known peers above the bound."""
    while len(table) > MAX_PEERS:
        table.popitem(last=False)
