"""The nonces that directives answer: given to one peer, good for one directive, for a while."""

from collections import OrderedDict
from dataclasses import dataclass

from distqatd.base.errors import ExpiredDirective, ReplayedDirective
from distqatd.base.ids import PeerId
from distqatd.base.rng import Rng
from distqatd.identity.directive import VALID_S, Directive

NONCE_BYTES = 16
MAX_CHALLENGES = 256
MAX_CHALLENGES_PER_PEER = 4
"""Open challenges at most; of one peer, or of all, the oldest goes first."""


@dataclass(frozen=True, slots=True)
class _Challenge:
    caller: PeerId
    given_s: float


class Challenges:
    """The nonces that this machine has given out and nobody has used yet.

    Times are seconds of a clock that only goes forward, such as the loop's.
    """

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._open: OrderedDict[bytes, _Challenge] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def give(self, caller: PeerId, now_s: float) -> bytes:
        """Return a fresh nonce for one directive of `caller`."""
        mine = [nonce for nonce, each in self._open.items() if each.caller == caller]
        if len(mine) >= MAX_CHALLENGES_PER_PEER:
            del self._open[mine[0]]
        if len(self._open) >= MAX_CHALLENGES:
            self._open.popitem(last=False)
        nonce = self._rng.randbytes(NONCE_BYTES)
        self._open[nonce] = _Challenge(caller, now_s)
        return nonce

    def redeem(self, directive: Directive, caller: PeerId, now_s: float) -> None:
        """Use up the nonce of a directive that came from `caller`.

        Raises:
            ReplayedDirective: it was used before, or given to somebody else, or to nobody.
            ExpiredDirective: it was given too long ago.
        """
        challenge = self._open.pop(directive.nonce, None)
        if challenge is None or challenge.caller != caller:
            raise ReplayedDirective(
                "the directive answers no open challenge of ours: it was carried out before, or "
                "somebody repeats it"
            )
        age_s = now_s - challenge.given_s
        valid_s = min(directive.valid_s, VALID_S)
        if not age_s <= valid_s:
            raise ExpiredDirective(
                f"the directive came {age_s:.0f} s after its challenge, at most {valid_s:g} s"
            )
