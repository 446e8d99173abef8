"""How far the exchange of a round is, for people to look at while it lasts. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from distqatd.averaging.plan import Plan
from distqatd.base.ids import ExpertUid


@dataclass(frozen=True, slots=True)
class SliceProgress:
    """The means of one owner's slice that one member holds; bytes are those of fp32."""

    owner: ExpertUid
    chunks_done: int
    chunks: int
    bytes_done: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Progress:
    """The exchange as one member sees it.

    `waits_for` are those without whom it cannot go on: members that owe us values of a chunk which
    others have sent, or else the owners that owe us means.
    """

    slices: tuple[SliceProgress, ...]
    waits_for: tuple[ExpertUid, ...]

    @property
    def bytes_done(self) -> int:
        """Return the bytes of the mean that are here."""
        return sum(each.bytes_done for each in self.slices)

    @property
    def num_bytes(self) -> int:
        """Return the bytes of the whole mean."""
        return sum(each.num_bytes for each in self.slices)


def progress_of(plan: Plan, done: Mapping[ExpertUid, int], late: tuple[ExpertUid, ...]) -> Progress:
    """Return how far a member is.

    Args:
        plan: the round.
        done: chunks whose mean is here, by owner.
        late: who owes us values of a chunk that others have sent.
    """
    slices = []
    for index, member in enumerate(plan.members):
        sizes = [4 * (stop - start) for start, stop in plan.chunks_of(index)]
        count = done.get(member.uid, 0)
        # Chunks come roughly in order, and only the last of a slice is smaller.
        row = SliceProgress(member.uid, count, len(sizes), sum(sizes[:count]), sum(sizes))
        slices.append(row)
    owing = tuple(each.owner for each in slices if each.chunks_done < each.chunks)
    return Progress(tuple(each for each in slices if each.chunks), late or owing)
