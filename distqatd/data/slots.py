"""Who has which slot of the ring: what the data server decides. No I/O, no memory.

    want(trainer, key) ─► Fill(slot, key) ─► filled(slot) ─► Give(trainer, key, slot) ─► done

A slot holds one batch, ready for every trainer that wants it: a batch is prepared once, also if
it is run again by another trainer. Trainers say how far their lease reaches, and what comes next
is prepared before they ask. As many slots are filled at a time as there are workers, what is
wanted before what will be.

Keys are numbers of training batches; negative ones are those of validation, see `validation_key`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

MAX_TRAINERS = 64
MAX_WANTED = 64
"""Batches that a trainer waits for at once, and leases it tells of, at most."""


def validation_key(index: int) -> int:
    """Return the key of validation batch `index`."""
    return -1 - index


def validation_index(key: int) -> int | None:
    """Return which validation batch has this key; None for one to train on."""
    return -1 - key if key < 0 else None


@dataclass(frozen=True, slots=True)
class Fill:
    """Prepare the batch `key` and put it into the slot; answer with `filled` or `failed`."""

    slot: int
    key: int


@dataclass(frozen=True, slots=True)
class Give:
    """Tell the trainer that its batch lies in the slot, which it holds until `done`."""

    trainer: int
    key: int
    slot: int


@dataclass(frozen=True, slots=True)
class Fail:
    """Tell the trainer that its batch cannot be had here, and why."""

    trainer: int
    key: int
    reason: str


Instruction = Fill | Give | Fail


@dataclass(slots=True)
class _Slot:
    key: int | None = None
    is_ready: bool = False
    age: int = 0
    holders: set[int] = field(default_factory=set)

    @property
    def is_filling(self) -> bool:
        return self.key is not None and not self.is_ready


@dataclass(slots=True)
class _Trainer:
    """`wanted`: keys it waits for, in order. `leases`: what comes next of each, by its end."""

    wanted: dict[int, None] = field(default_factory=dict)
    leases: dict[int, int] = field(default_factory=dict)


class Slots:
    """The slots of a ring and the trainers that share them.

    Every method returns what is to be done now, in this order.
    """

    def __init__(self, num_slots: int, num_workers: int = 1) -> None:
        """Begin with empty slots; there must be two at least, to fill one while one is held."""
        self._num_workers = num_workers
        self._slots = [_Slot() for _ in range(num_slots)]
        self._trainers: dict[int, _Trainer] = {}
        self._age = 0

    @property
    def num_trainers(self) -> int:
        """Return how many trainers there are."""
        return len(self._trainers)

    def join(self, trainer: int) -> bool:
        """Take a trainer in; False if there are MAX_TRAINERS already."""
        if len(self._trainers) >= MAX_TRAINERS:
            return False
        self._trainers[trainer] = _Trainer()
        return True

    def leave(self, trainer: int) -> list[Instruction]:
        """Forget a trainer, however it ended: what it held is free for others."""
        self._trainers.pop(trainer, None)
        for slot in self._slots:
            slot.holders.discard(trainer)
        return self._go_on()

    def want(self, trainer: int, key: int, end: int = 0) -> list[Instruction]:
        """Note that a trainer waits for a batch, and that it will want those below `end` next."""
        known = self._trainers[trainer]
        if len(known.wanted) >= MAX_WANTED and key not in known.wanted:
            return [Fail(trainer, key, f"{MAX_WANTED} batches are waited for already")]
        known.wanted[key] = None
        known.leases.pop(end, None)
        if 0 <= key + 1 < end:
            known.leases[end] = key + 1
            while len(known.leases) > MAX_WANTED:
                del known.leases[next(iter(known.leases))]
        return self._go_on()

    def done(self, trainer: int, slot: int) -> list[Instruction]:
        """Note that a trainer has taken what it needs out of a slot; a repetition does nothing."""
        if 0 <= slot < len(self._slots):
            self._slots[slot].holders.discard(trainer)
        return self._go_on()

    def filled(self, slot: int) -> list[Instruction]:
        """Note that a slot holds its batch."""
        self._age += 1
        self._slots[slot].is_ready, self._slots[slot].age = True, self._age
        return self._go_on()

    def failed(self, slot: int, reason: str) -> list[Instruction]:
        """Note that a batch could not be prepared; it is tried again only when it is wanted."""
        key = self._slots[slot].key
        self._slots[slot] = _Slot()
        instructions: list[Instruction] = []
        for number, trainer in self._trainers.items():
            trainer.leases = {e: n for e, n in trainer.leases.items() if not _has(n, e, key)}
            if key is not None and key in trainer.wanted:
                del trainer.wanted[key]
                instructions.append(Fail(number, key, reason))
        return [*instructions, *self._go_on()]

    # --- what comes next

    def _go_on(self) -> list[Instruction]:
        return [*self._give(), *self._fill()]

    def _give(self) -> Iterator[Instruction]:
        ready = {slot.key: index for index, slot in enumerate(self._slots) if slot.is_ready}
        for number, trainer in self._trainers.items():
            for key in [key for key in trainer.wanted if key in ready]:
                del trainer.wanted[key]
                self._slots[ready[key]].holders.add(number)
                yield Give(number, key, ready[key])

    def _fill(self) -> Iterator[Instruction]:
        while sum(slot.is_filling for slot in self._slots) < self._num_workers:
            fill = self._next_fill()
            if fill is None:
                return
            yield fill

    def _next_fill(self) -> Fill | None:
        present = {slot.key for slot in self._slots}
        coming = [*self._coming()]
        for keys, kept in ((self._wanted(), ()), (coming, coming)):
            key = next((key for key in keys if key not in present), None)
            index = self._free(kept) if key is not None else None
            if key is not None and index is not None:
                self._slots[index] = _Slot(key)
                return Fill(index, key)
        return None

    def _wanted(self) -> Iterator[int]:
        """Yield what is waited for: the first of every trainer, the second, and so on."""
        return _in_turn([[*trainer.wanted] for trainer in self._trainers.values()])

    def _coming(self) -> Iterator[int]:
        """Yield what will be wanted, nearest first, each lease its share of the slots."""
        leases = [lease for trainer in self._trainers.values() for lease in trainer.leases.items()]
        share = max(1, (len(self._slots) - 1) // max(len(leases), 1))
        return _in_turn([[*range(start, min(end, start + share))] for end, start in leases])

    def _free(self, kept: Iterable[int]) -> int | None:
        """Return the slot to fill: an empty one, or of those nobody holds or needs the oldest."""
        keep = {*kept, *self._wanted()}
        free = [
            (slot.key is not None, slot.age, index)
            for index, slot in enumerate(self._slots)
            if not slot.holders and not slot.is_filling and slot.key not in keep
        ]
        return min(free)[2] if free else None


def _has(start: int, end: int, key: int | None) -> bool:
    return key is not None and start <= key < end


def _in_turn(columns: list[list[int]]) -> Iterator[int]:
    for row in range(max(map(len, columns), default=0)):
        for column in columns:
            if row < len(column):
                yield column[row]
