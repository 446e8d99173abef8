"""Taking over a newer anchor without giving up what was trained since the old one. Pure.

A replica that missed an outer step (its round aborted, it hung, its leader died) has local steps
that no anchor holds. They are a difference between its anchor and its parameters, and they may as
well be a difference to the newer anchor: as in any round, all replicas differ from the anchor by
what they have trained. Only what the newer anchor holds already must not count again.

Where outer steps take fragments, the parameters also hold the other fragments' part of batches that
are inside the anchor. It goes along too, also where no batch does.
"""

from dataclasses import dataclass

from distqatd.base.decision import Decision
from distqatd.base.intervals import IntervalSet
from distqatd.compute.book import BatchBook


@dataclass(frozen=True, slots=True)
class Carried:
    """What becomes of the work of a replica that takes over a newer anchor.

    Attributes:
        kept: batches whose work goes along.
        dropped: batches whose work is in no anchor any more; nothing but training brings it back.
        is_since_contribution: only what came after the last contribution goes along.
        is_mixed: the newer anchor holds a part that cannot be told from the rest.
    """

    kept: IntervalSet
    dropped: IntervalSet
    is_since_contribution: bool = False
    is_mixed: bool = False


def carry(book: BatchBook, contributed: IntervalSet, inside: IntervalSet) -> Decision[Carried]:
    """Decide which local steps go along to a newer anchor.

    Args:
        book: of the replica.
        contributed: the batches of its last contribution, if that did not commit here.
        inside: the batches inside the newer anchor.
    """
    lost_anchor = book.anchor.minus(inside)
    taken = book.local.common(inside)
    if not taken:
        reason = f"none of {len(book.local)} local batches is in the newer anchor: all are kept"
        return Decision(Carried(book.local, lost_anchor), reason)
    rest = book.local.minus(contributed)
    if contributed and taken == contributed.common(book.local):
        reason = f"{len(taken)} of our batches were committed without us: {len(rest)} are kept"
        return Decision(Carried(rest, lost_anchor, is_since_contribution=True), reason)
    dropped = lost_anchor.union(book.local.minus(inside))
    reason = f"the newer anchor holds {len(taken)} of {len(book.local)} local batches: none is kept"
    return Decision(Carried(IntervalSet(), dropped, is_mixed=True), reason)
