"""Replies about outer steps; rules as in `schema`."""

from typing import Literal

from pydantic import Field

from distqatd.api.schema import Eval, Part, Reply


class Round(Part):
    """One attempt at an outer step of one stage.

    `weights` are the samples of each member; `shares` the parts of the vector that each one
    reduced, `bandwidths` what they had measured of their lines, bytes/s, `slicing` why.
    `fragment` is the part of the stage that it was about, null for all of it.
    """

    outer_step: int
    stage: str
    outcome: Literal["committed", "aborted"]
    reason: str
    members: tuple[str, ...]
    missing: tuple[str, ...]
    weights: dict[str, float]
    bytes_sent: int
    seconds: float
    ended_unix_s: float
    shares: dict[str, float] = Field(default_factory=dict)
    bandwidths: dict[str, float] = Field(default_factory=dict)
    slicing: str = ""
    fragment: int | None = None


class SliceProgress(Part):
    """How much of one owner's slice of the mean this daemon's member holds; bytes are of fp32."""

    owner: str
    chunks_done: int
    chunks: int
    bytes_done: int
    num_bytes: int


class RoundWait(Part):
    """A round that is open now; one that another daemon leads waits for its leader.

    While means are exchanged, `slices` says how far the member of this daemon is, and `behind`
    without whom it cannot go on; both are empty otherwise.
    """

    outer_step: int
    stage: str
    phase: str
    ready: tuple[str, ...]
    waiting_for: tuple[str, ...]
    seconds_left: float
    slices: tuple[SliceProgress, ...] = ()
    behind: tuple[str, ...] = ()

    @property
    def chunks_done(self) -> int:
        """Return the chunks that are here."""
        return sum(each.chunks_done for each in self.slices)

    @property
    def chunks(self) -> int:
        """Return the chunks that there are."""
        return sum(each.chunks for each in self.slices)


class Rounds(Reply):
    """`GET /v1/rounds`: the newest rounds, newest last, open ones, and the newest evaluation."""

    schema_id: Literal["distqat.rounds/v1"] = Field("distqat.rounds/v1", alias="schema")
    rounds: tuple[Round, ...]
    waits: tuple[RoundWait, ...] = ()
    eval: Eval | None = None
