"""What goes into a round and what comes out of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

from distqatd.averaging.ballots import VoterId
from distqatd.base.ids import ExpertUid
from distqatd.base.intervals import IntervalSet
from distqatd.compute.book import NO_BATCHES


class ContributionLike(Protocol):
    """What an expert brings to a round; `compute.expert.Contribution` is one.

    `pseudo_gradient` is float32, 1-D, on the CPU, and must not change while the round runs.
    `outer_step` counts the outer steps taken so far: all members of a round have the same.
    """

    @property
    def pseudo_gradient(self) -> Tensor:
        """Return anchor - local."""
        ...

    @property
    def samples(self) -> int:
        """Return the samples trained on since the anchor."""
        ...

    @property
    def outer_step(self) -> int:
        """Return the outer step of the anchor."""
        ...

    @property
    def anchor_digest(self) -> str:
        """Return the digest of the anchor."""
        ...

    @property
    def int_buffers(self) -> Mapping[str, int]:
        """Return the integer buffers by name."""
        ...

    @property
    def batches(self) -> IntervalSet:
        """Return the batches that the samples came from."""
        ...

    @property
    def num_coded(self) -> int:
        """Return how many of the first elements may be rounded on their way."""
        ...

    @property
    def num_averaged(self) -> int:
        """Return how many of the first elements are averaged; of the rest the largest counts."""
        ...

    @property
    def voters(self) -> tuple[VoterId, ...]:
        """Return who decides this step: members of the one that made the anchor; () if none."""
        ...


@dataclass(frozen=True, slots=True)
class Committed:
    """A round that all its members committed with the same bits.

    Attributes:
        mean: weighted mean pseudo-gradient, float32, 1-D, CPU; the caller owns it.
        outer_step: the one this makes: that of the contributions + 1.
        members: who took part, in the order of the plan.
        weights: share of each in `mean`.
        int_buffers: the largest value of each integer buffer.
        digest: of `mean`, the one that all members voted for.
        bytes_sent: tensor bytes this member sent.
        seconds: from our call to the end.
        batches: all that the members have trained on since the anchor.
        duplicated: how many of them more than one member had trained on.
        rest: what a codec took from our own contribution, see `compute.feedback`.
        voters: who decides the next step: the members, and where they are.
        contribution: what we brought to it; an earlier one than the call's if a ballot of an
            earlier call was found to be chosen. What was trained since is not inside.
        dropped: whose contribution was left out, wholly or in part: it was not finite.
        norms: length of each contribution, where it was measured.
    """

    mean: Tensor
    outer_step: int
    members: tuple[ExpertUid, ...]
    weights: dict[ExpertUid, float]
    int_buffers: dict[str, int]
    digest: str
    bytes_sent: int
    seconds: float
    batches: IntervalSet = NO_BATCHES
    duplicated: int = 0
    rest: Tensor | None = None
    voters: tuple[VoterId, ...] = ()
    contribution: ContributionLike | None = None
    dropped: tuple[ExpertUid, ...] = ()
    norms: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One attempt at an outer step as one member saw it, for `distqatctl rounds`.

    `weights` are shares of the mean; `missing` are members of the roster that took no part;
    `duplicated` counts batches that more than one member had trained on, 0 unless it committed.
    `shares` are the parts of the vector that members owned, `bandwidths` what they had said of
    their lines, bytes/s, and `slicing` why the one follows from the other. `fragment` is the part
    of the stage that it was about, None for all of it.
    """

    outer_step: int
    stage: str
    uid: ExpertUid
    outcome: Literal["committed", "aborted"]
    reason: str
    members: tuple[ExpertUid, ...]
    missing: tuple[ExpertUid, ...]
    weights: dict[ExpertUid, float]
    bytes_sent: int
    seconds: float
    ended_unix_s: float
    duplicated: int = 0
    shares: dict[ExpertUid, float] = field(default_factory=dict)
    bandwidths: dict[ExpertUid, float] = field(default_factory=dict)
    slicing: str = ""
    fragment: int | None = None
