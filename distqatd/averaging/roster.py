"""Who counts in a round, who leads it, and when it may close. Pure functions.

A member's outer step and anchor digest come from its DHT record, which may be seconds old: they
are hints. What decides is what a member says when it asks to take part.
"""

import hashlib
import math
import statistics
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from distqatd.base.decision import Decision
from distqatd.base.ids import ExpertUid, PeerId

MAX_MEMBERS = 256
"""Members of one round at most."""

MIN_ARRIVALS = 5
"""Arrivals needed before they say more about the next round than the configured bound."""

MAD_FACTOR = 6.0
"""Width of the grace window in median absolute deviations: 4 sigma of a normal spread."""

MIN_GRACE_S = 1.0
"""Never wait less than this: the spread of a few lucky rounds is close to zero."""


@dataclass(frozen=True, slots=True)
class Member:
    """A serving expert of a stage as its record describes it.

    One that is not `is_dialable` connects to others, and nobody to it: client mode.
    """

    uid: ExpertUid
    peer_id: PeerId
    outer_step: int
    anchor_digest: str
    is_dialable: bool = True


def leader_order(stage: str, outer_step: int, uids: Iterable[ExpertUid]) -> tuple[ExpertUid, ...]:
    """Return who should lead the round: the first, or on its silence the next, and so on.

    Rendezvous hashing [source: Thaler & Ravishankar, 1998]: every peer finds the same order
    without talking, and one member more or less moves nobody else.
    """

    def rank(uid: ExpertUid) -> bytes:
        return hashlib.sha256(f"{stage}/{outer_step}/{uid}".encode()).digest()

    return tuple(sorted(set(uids), key=rank))


def share_holds(
    ready: Collection[ExpertUid], roster: Collection[ExpertUid], quorum: float
) -> Decision[bool]:
    """Decide whether enough of the roster is ready to take the outer step without the others."""
    num_ready = len(set(ready) & set(roster))
    text = f"{num_ready} of {len(roster)} ready, quorum {quorum:g}"
    return Decision(num_ready >= math.ceil(quorum * len(roster)), text)


def grace_s(arrivals_s: Sequence[float], timeout_s: float) -> Decision[float]:
    """Decide how long a round stays open after its first member is ready.

    Args:
        arrivals_s: seconds from a round's first member to each further one, in past rounds.
        timeout_s: seconds a round may take in all; half of it bounds the answer.
    """
    bound_s = timeout_s / 2
    if len(arrivals_s) < MIN_ARRIVALS:
        return Decision(bound_s, f"{bound_s:.1f} s: half of averaging_timeout, few past arrivals")
    median_s = statistics.median(arrivals_s)
    mad_s = statistics.median(abs(arrival_s - median_s) for arrival_s in arrivals_s)
    wanted_s = max(MIN_GRACE_S, median_s + MAD_FACTOR * mad_s)
    reason = f"median {median_s:.2f} s + {MAD_FACTOR:g} x MAD {mad_s:.2f} s of past arrivals"
    return Decision(min(bound_s, wanted_s), f"{min(bound_s, wanted_s):.1f} s: {reason}")


def retry_grace_s(grace: Decision[float], margin_s: float) -> Decision[float]:
    """Decide how long a ballot stays open that follows one which fell apart.

    Who was in that one comes at once; the others were waited for already.
    """
    wanted_s = max(MIN_GRACE_S, margin_s)
    return Decision(min(grace.value, wanted_s), f"another ballot: at most {wanted_s:.1f} s")
