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


class RoundWait(Part):
    """A round that is open now; one that another daemon leads waits for its leader."""

    outer_step: int
    stage: str
    phase: str
    ready: tuple[str, ...]
    waiting_for: tuple[str, ...]
    seconds_left: float


class Rounds(Reply):
    """`GET /v1/rounds`: the newest rounds, newest last, open ones, and the newest evaluation."""

    schema_id: Literal["distqat.rounds/v1"] = Field("distqat.rounds/v1", alias="schema")
    rounds: tuple[Round, ...]
    waits: tuple[RoundWait, ...] = ()
    eval: Eval | None = None
