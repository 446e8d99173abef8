"""What members and leaders say to each other, checked field by field when read.

Methods, all with the receiver's uid as `to`:

    averaging.ready   member -> leader   "count me in": step, anchor, samples, batches, size
    averaging.open    leader -> roster   "a round has opened, it closes in s seconds"
    averaging.plan    leader -> member   the closed round and its ballot; answered with a promise
    averaging.prepare leader -> voter    the ballot alone, to voters that are not in the round
    averaging.chunk   member -> owner    one chunk of one slice; answered with its mean
    averaging.vote    member -> leader   digest of the mean I hold, or what went wrong
    averaging.accept  leader -> member   the value to accept in this ballot
    averaging.verdict leader -> roster   committed, or this ballot is over, and why
    averaging.digest  member -> member   digest of the anchor after an outer step
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from distqatd.averaging.ballots import Learn, StepKey, VoterId
from distqatd.averaging.roster import MAX_MEMBERS
from distqatd.averaging.speech import (
    read_ballot,
    read_value,
    read_voters,
    write_ballot,
    write_value,
)
from distqatd.base.errors import RemoteProtocolError
from distqatd.base.ids import ExpertUid
from distqatd.base.intervals import IntervalSet
from distqatd.compute.book import MAX_RANGES, NO_BATCHES
from distqatd.wire.fields import need

T = TypeVar("T")

READY: Final = "averaging.ready"
OPEN: Final = "averaging.open"
PLAN: Final = "averaging.plan"
CHUNK: Final = "averaging.chunk"
PREPARE: Final = "averaging.prepare"
VOTE: Final = "averaging.vote"
ACCEPT: Final = "averaging.accept"
VERDICT: Final = "averaging.verdict"
DIGEST: Final = "averaging.digest"

JOINED: Final = "joined"
"""Answer to READY: you are in. Answer to OPEN: I am in."""
COMING: Final = "coming"
"""Answer to OPEN: same step and anchor, still training."""
BEHIND: Final = "behind"
"""I have not come to this outer step: I cannot lead it or take part in it."""
AHEAD: Final = "ahead"
"""I have this outer step behind me: you must catch up."""
DIVERGED: Final = "diverged"
"""Same outer step, other anchor."""
ELSEWHERE: Final = "elsewhere"
"""Answer to READY: I am in the round of another leader, or on my way there: come along."""
CLOSED: Final = "closed"
"""The round has closed without you."""

MAX_INT_BUFFERS = 4096
MAX_ELEMENTS = 1 << 48
MAX_TEXT = 300
MAX_BANDWIDTH = 1e12
"""Bytes/s; 8 Tbit/s."""


def take_uid(body: Mapping[str, Any], key: str) -> ExpertUid:
    """Return `body[key]` as a uid: a text of at most 64 characters.

    Raises:
        RemoteProtocolError: it is not.
    """
    uid = need(body, key, str)
    if not 0 < len(uid) <= 64:
        raise RemoteProtocolError(f"field {key!r} is not an expert uid")
    return ExpertUid(uid)


def take_ints(body: Mapping[str, Any], key: str) -> dict[str, int]:
    """Return `body[key]` as named integers.

    Raises:
        RemoteProtocolError: it is not, or there are more than MAX_INT_BUFFERS.
    """
    values = need(body, key, dict)
    if len(values) > MAX_INT_BUFFERS or any(type(value) is not int for value in values.values()):
        raise RemoteProtocolError(f"field {key!r} must hold at most {MAX_INT_BUFFERS} integers")
    return values


def take_batches(body: Mapping[str, Any], key: str) -> IntervalSet:
    """Return `body[key]` as a set of batch numbers.

    Raises:
        RemoteProtocolError: it is not, or has more than MAX_RANGES ranges.
    """
    try:
        return IntervalSet.read(need(body, key, list), MAX_RANGES)
    except ValueError as error:
        raise RemoteProtocolError(f"field {key!r}: {error}") from error


def take_bandwidth(body: Mapping[str, Any]) -> float:
    """Return `body["bandwidth"]`: what a member says that its line carries, bytes/s, 0 unknown.

    Raises:
        RemoteProtocolError: no line is like that.
    """
    bandwidth = need(body, "bandwidth", float)
    # Numbers that are next to nothing would make infinities where slices are cut.
    if bandwidth != 0 and not 1 <= bandwidth <= MAX_BANDWIDTH:
        raise RemoteProtocolError(f"a line of {bandwidth} bytes/s")
    return bandwidth


def take_uids(body: Mapping[str, Any], key: str) -> tuple[ExpertUid, ...]:
    """Return `body[key]` as uids.

    Raises:
        RemoteProtocolError: it is not a list of texts, or too long.
    """
    values = need(body, key, list)
    if len(values) > MAX_MEMBERS or any(type(value) is not str for value in values):
        raise RemoteProtocolError(f"field {key!r} must hold at most {MAX_MEMBERS} uids")
    return tuple(ExpertUid(value) for value in values)


@dataclass(frozen=True, slots=True)
class Ready:
    """A member asks to take part. `samples` 0 means weight 0: it works for the others only.

    Attributes:
        num_coded: elements that the codec may round: parameters, not statistics; they come first.
        batches: those that the samples came from: trained on by the stage if this commits.
        voters: who decides this step, as the member's anchor says.
        attempt: rounds over this step that it was in, in the same call, and that fell apart.
        num_averaged: elements that are averaged; of those behind them, ranges, the largest counts.
        is_dialable: whether others can connect to it; if not it cannot own a slice.
    """

    uid: ExpertUid
    stage: str
    outer_step: int
    anchor_digest: str
    samples: int
    num_elements: int
    bandwidth: float
    int_buffers: dict[str, int]
    batches: IntervalSet = NO_BATCHES
    num_coded: int = MAX_ELEMENTS
    voters: tuple[VoterId, ...] = ()
    attempt: int = 0
    num_averaged: int = MAX_ELEMENTS
    is_dialable: bool = True

    @property
    def key(self) -> StepKey:
        """Return the step that it is ready for."""
        return StepKey(self.stage, self.outer_step, self.anchor_digest)

    def to_body(self) -> dict[str, Any]:
        """Return the body that `from_body` reads."""
        return {
            "from": self.uid,
            "stage": self.stage,
            "step": self.outer_step,
            "anchor": self.anchor_digest,
            "samples": self.samples,
            "numel": self.num_elements,
            "bandwidth": self.bandwidth,
            "ints": self.int_buffers,
            "batches": self.batches.to_list(),
            "coded": self.num_coded,
            "voters": list(self.voters),
            "attempt": self.attempt,
            "averaged": self.num_averaged,
            "dialable": self.is_dialable,
        }

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> "Ready":
        """Read and check what `to_body` wrote.

        Raises:
            RemoteProtocolError: a field is missing, of another type or out of range.
        """
        ready = cls(
            take_uid(body, "from"),
            need(body, "stage", str),
            need(body, "step", int),
            need(body, "anchor", str),
            need(body, "samples", int),
            need(body, "numel", int),
            take_bandwidth(body),
            take_ints(body, "ints"),
            take_batches(body, "batches"),
            need(body, "coded", int),
            read_voters(body, "voters"),
            need(body, "attempt", int),
            need(body, "averaged", int),
            need(body, "dialable", bool),
        )
        if ready.samples < 0 or ready.num_elements < 1:
            raise RemoteProtocolError(f"ready from {ready.uid}: samples or size")
        return ready


@dataclass(frozen=True, slots=True)
class Vote:
    """What a member has to say at the end: the digest of the mean it holds, or a fault.

    `blamed` are the members it could not work with; `digest` is empty then.
    """

    round_id: str
    uid: ExpertUid
    digest: str
    blamed: tuple[ExpertUid, ...] = ()
    reason: str = ""

    def to_body(self) -> dict[str, Any]:
        """Return the body that `from_body` reads."""
        return {
            "round": self.round_id,
            "from": self.uid,
            "digest": self.digest,
            "blamed": list(self.blamed),
            "reason": self.reason[:MAX_TEXT],
        }

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> "Vote":
        """Read and check what `to_body` wrote.

        Raises:
            RemoteProtocolError: a field is missing or of another type.
        """
        return cls(
            need(body, "round", str),
            take_uid(body, "from"),
            need(body, "digest", str),
            take_uids(body, "blamed"),
            need(body, "reason", str)[:MAX_TEXT],
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a round ended: with an outer step that was chosen, or its ballot is over.

    Attributes:
        round_id: the round.
        reason: why, for people.
        missing: members of the roster that took no part.
        chosen: the outer step that was committed; it may be one of an earlier round.
        again: whether another ballot at once may do better, with whoever is left.
    """

    round_id: str
    reason: str
    missing: tuple[ExpertUid, ...] = ()
    chosen: Learn | None = None
    again: bool = False

    @property
    def committed(self) -> bool:
        """Return whether an outer step was chosen."""
        return self.chosen is not None

    def to_body(self) -> dict[str, Any]:
        """Return the body that `from_body` reads."""
        return {
            "round": self.round_id,
            "reason": self.reason[:MAX_TEXT],
            "missing": list(self.missing),
            "again": self.again,
            **chosen_fields(self.chosen),
        }

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> "Verdict":
        """Read and check what `to_body` wrote.

        Raises:
            RemoteProtocolError: a field is missing or of another type.
        """
        return cls(
            need(body, "round", str),
            need(body, "reason", str)[:MAX_TEXT],
            take_uids(body, "missing"),
            take_chosen(body),
            need(body, "again", bool),
        )


def chosen_fields(chosen: Learn | None) -> dict[str, Any]:
    """Return the fields that `take_chosen` reads."""
    if chosen is None:
        return {"ballot": None, "value": None}
    return {"ballot": write_ballot(chosen.ballot), "value": write_value(chosen.value)}


def take_chosen(body: Mapping[str, Any]) -> Learn | None:
    """Return the outer step that the body says was chosen, None if it says of none.

    Raises:
        RemoteProtocolError: it cannot be read.
    """
    ballot, value = read_ballot(body, "ballot"), read_value(body, "value")
    if (ballot is None) != (value is None):
        raise RemoteProtocolError("a value that was chosen comes with its ballot")
    return None if ballot is None or value is None else Learn(ballot, value)
