"""Whether all replicas of a stage hold the same anchor after an outer step."""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from distqatd.base.ids import ExpertUid


@dataclass(frozen=True, slots=True)
class Agreement:
    """What the replicas hold at one outer step.

    Attributes:
        identical: all that were asked answered, with one digest.
        majority: the digest that most hold; of equally many, the smallest.
        holders: who holds it; a replica that is not among them takes its state from one of them.
        silent: who did not answer.
        dissenters: who holds another digest than the majority.
    """

    identical: bool
    majority: str
    holders: tuple[ExpertUid, ...]
    silent: tuple[ExpertUid, ...] = ()
    dissenters: tuple[ExpertUid, ...] = ()


def agree(digests: Mapping[ExpertUid, str], silent: tuple[ExpertUid, ...]) -> Agreement:
    """Compare digests by member; at least one is needed."""
    counts = Counter(digests.values())
    majority = min(counts, key=lambda digest: (-counts[digest], digest))
    holders = tuple(sorted(uid for uid, digest in digests.items() if digest == majority))
    dissenters = tuple(sorted(digests.keys() - set(holders)))
    return Agreement(not dissenters and not silent, majority, holders, silent, dissenters)


class DigestBook:
    """Digests by (our expert, outer step) and member; the oldest outer steps are dropped."""

    def __init__(self, capacity: int = 64, max_members: int = 256) -> None:
        self._capacity = capacity
        self._max_members = max_members
        self._books: OrderedDict[tuple[ExpertUid, int], dict[ExpertUid, str]] = OrderedDict()
        self._changed = asyncio.Event()

    def note(self, owner: ExpertUid, outer_step: int, uid: ExpertUid, digest: str) -> None:
        """Write down what a member holds; ignored for more members than a stage can have."""
        book = self._books.setdefault((owner, outer_step), {})
        if len(book) < self._max_members or uid in book:
            book[uid] = digest
        while len(self._books) > self._capacity:
            self._books.popitem(last=False)
        self._changed.set()
        self._changed = asyncio.Event()

    def get(self, owner: ExpertUid, outer_step: int) -> dict[ExpertUid, str]:
        """Return the digests known for one of our experts and an outer step."""
        return dict(self._books.get((owner, outer_step), {}))

    def forget(self, owner: ExpertUid) -> None:
        """Drop what is known for one of our experts."""
        for key in [key for key in self._books if key[0] == owner]:
            del self._books[key]

    async def wait_for(
        self, owner: ExpertUid, outer_step: int, uids: frozenset[ExpertUid], timeout_s: float
    ) -> None:
        """Wait until all `uids` are known, or `timeout_s` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                while not uids <= self.get(owner, outer_step).keys():
                    await self._changed.wait()
        except TimeoutError:
            return
