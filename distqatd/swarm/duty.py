"""Who does the client's duty: pure, from what a client knows of the others.

    stand by ──nobody has it, our turn──► hold (a new term) ──another has a higher one──► stand by

The duty has a term that grows with every holder. Of two holders, as after a partition, the one
with the higher term goes on, or with the lower peer id where terms are equal; it takes a new term
then and asks everybody again what they do, since both have lent batches.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from distqatd.base.decision import Decision
from distqatd.base.ids import PeerId

HOLD = "hold"
STAND_BY = "stand by"
CLAIM = "claim"
STEP_DOWN = "step down"

FIRST_TURN_S = 0.3
"""The first in line waits so long before it claims, seconds: the holder may be on its way back."""

TURN_S = 0.7
"""Every further one in line waits so much longer, seconds, so that the ones before it are seen."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What one client knows about the duty.

    Attributes:
        me: this client.
        term: under which it holds the duty; 0 while it stands by.
        known_term: the highest it ever heard of.
        rivals: terms of the others that say they hold the duty.
        settled: (peer, term) of former holders whose work is in our books already.
        clients: peers with the client role that live, this one too.
        vacant_s: since when nobody is known to hold it, seconds.
    """

    me: PeerId
    term: int
    known_term: int
    rivals: Mapping[PeerId, int]
    settled: Collection[tuple[PeerId, int]]
    clients: Collection[PeerId]
    vacant_s: float


@dataclass(frozen=True, slots=True)
class Step:
    """What to do: HOLD, STAND_BY, CLAIM or STEP_DOWN, and the term that holds then."""

    action: str
    term: int


def decide(situation: Situation) -> Decision[Step]:
    """Return what a client does about the duty now."""
    if situation.term:
        return _as_holder(situation)
    return _as_standby(situation)


def _as_holder(situation: Situation) -> Decision[Step]:
    best = _best(situation.rivals)
    mine = situation.term
    if best is not None and _rank(best, situation.rivals[best]) > _rank(situation.me, mine):
        theirs = situation.rivals[best]
        return Decision(Step(STEP_DOWN, theirs), f"{best} holds it in term {theirs}, we in {mine}")
    new = [rival for rival in situation.rivals.items() if rival not in situation.settled]
    if new:
        names = ", ".join(sorted(peer for peer, _ in new))
        return Decision(Step(CLAIM, _next_term(situation)), f"{names} held it too")
    if situation.known_term > mine:
        reason = f"term {situation.known_term} is known, ours is {mine}"
        return Decision(Step(CLAIM, _next_term(situation)), reason)
    return Decision(Step(HOLD, mine), f"we hold it in term {mine}")


def _as_standby(situation: Situation) -> Decision[Step]:
    best = _best(situation.rivals)
    if best is not None:
        term = situation.rivals[best]
        return Decision(Step(STAND_BY, term), f"{best} holds it in term {term}")
    others = sorted(peer for peer in situation.clients if peer != situation.me)
    turn_s = turn(situation.me, others)
    if situation.vacant_s < turn_s:
        reason = f"nobody holds it for {situation.vacant_s:.1f} s, our turn is after {turn_s:.1f} s"
        return Decision(Step(STAND_BY, situation.known_term), reason)
    if not others:
        reason = "no other client is known"
    else:
        reason = f"nobody holds it for {situation.vacant_s:.1f} s"
    return Decision(Step(CLAIM, _next_term(situation)), reason)


def turn(me: PeerId, others: Collection[PeerId]) -> float:
    """Return after how many seconds without a holder it is our turn; at once if we are alone."""
    if not others:
        return 0.0
    return FIRST_TURN_S + TURN_S * sum(peer < me for peer in others)


def _best(rivals: Mapping[PeerId, int]) -> PeerId | None:
    return min(rivals, key=lambda peer: (-rivals[peer], peer), default=None)


def _rank(peer: PeerId, term: int) -> tuple[int, tuple[int, ...]]:
    """Order holders: the higher term, then the lower peer id, is the greater."""
    return term, tuple(-ord(letter) for letter in peer)


def _next_term(situation: Situation) -> int:
    return max(situation.known_term, situation.term, *situation.rivals.values(), 0) + 1
