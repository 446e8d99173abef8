"""Means that were voted for here, until the step is decided: whoever holds one can finish it."""

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor

from distqatd.averaging.ballots import StepKey, Value
from distqatd.averaging.plan import Plan
from distqatd.averaging.records import Committed, ContributionLike
from distqatd.base.ids import ExpertUid

MAX_KEPT = 2
"""Vectors as long as the model; older ballots are hardly ever the ones that were chosen."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a member needs to commit a round: its plan, the mean, and what it had brought."""

    plan: Plan
    mean: Tensor
    digest: str
    contribution: ContributionLike
    rest: Tensor | None = None
    dropped: tuple[ExpertUid, ...] = ()
    norms: tuple[float, ...] = ()

    def committed(self, value: Value, bytes_sent: int, seconds: float) -> Committed:
        """Return what the members of the plan have committed as `value`."""
        plan = self.plan
        return Committed(
            mean=self.mean,
            outer_step=plan.outer_step + 1,
            members=plan.uids,
            weights=plan.weights,
            int_buffers=plan.int_buffers,
            digest=value.digest,
            bytes_sent=bytes_sent,
            seconds=seconds,
            batches=plan.batches,
            duplicated=plan.duplicated,
            rest=self.rest,
            voters=value.members,
            contribution=self.contribution,
            dropped=self.dropped,
            norms=self.norms,
        )


class KeptMeans:
    """The last means of one expert."""

    def __init__(self) -> None:
        """Hold none yet."""
        self._by_round: OrderedDict[str, Kept] = OrderedDict()

    def keep(self, kept: Kept) -> None:
        """Keep a mean; the oldest goes when there are more than MAX_KEPT."""
        self._by_round[kept.plan.round_id] = kept
        while len(self._by_round) > MAX_KEPT:
            self._by_round.popitem(last=False)

    def find(self, value: Value | None) -> Kept | None:
        """Return the mean of a value, if it is here."""
        if value is None or value.round_id not in self._by_round:
            return None
        kept = self._by_round[value.round_id]
        return kept if kept.digest == value.digest else None

    def keep_only(self, key: StepKey) -> None:
        """Drop what is of other steps than this one."""
        for round_id in [r for r, kept in self._by_round.items() if kept.plan.key != key]:
            del self._by_round[round_id]

    def forget(self) -> None:
        """Drop all: the step is applied, or we are at another one."""
        self._by_round.clear()
