"""What members and leaders say to each other, checked field by field when read.

Methods, all with the receiver's uid as `to`:

    averaging.ready   member -> leader   "count me in": step, anchor, samples, batches, size
    averaging.open    leader -> roster   "a round has opened, it closes in s seconds"
    averaging.plan    leader -> member   the closed round
    averaging.chunk   member -> owner    one chunk of one slice; answered with its mean
    averaging.vote    member -> leader   digest of the mean I hold, or what went wrong
    averaging.verdict leader -> member   committed or aborted, and why
    averaging.ask     member -> anyone   how did that round end?
    averaging.digest  member -> member   digest of the anchor after an outer step
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from distqatd.averaging.roster import MAX_MEMBERS
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
VOTE: Final = "averaging.vote"
VERDICT: Final = "averaging.verdict"
ASK: Final = "averaging.ask"
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

    `batches` are those that the samples came from: the stage has trained on them if this commits.
    The first `num_coded` elements may be rounded by the codec: parameters, not statistics.
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
            need(body, "bandwidth", float),
            take_ints(body, "ints"),
            take_batches(body, "batches"),
            need(body, "coded", int),
        )
        if ready.samples < 0 or ready.num_elements < 1 or not 0 <= ready.bandwidth < 1e15:
            raise RemoteProtocolError(f"ready from {ready.uid}: samples, size or bandwidth")
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
    """How a round ended: committed with this digest, or aborted. `missing` took no part."""

    round_id: str
    committed: bool
    reason: str
    digest: str = ""
    missing: tuple[ExpertUid, ...] = ()

    def to_body(self) -> dict[str, Any]:
        """Return the body that `from_body` reads."""
        return {
            "round": self.round_id,
            "committed": self.committed,
            "reason": self.reason[:MAX_TEXT],
            "digest": self.digest,
            "missing": list(self.missing),
        }

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> "Verdict":
        """Read and check what `to_body` wrote.

        Raises:
            RemoteProtocolError: a field is missing or of another type.
        """
        return cls(
            need(body, "round", str),
            need(body, "committed", bool),
            need(body, "reason", str)[:MAX_TEXT],
            need(body, "digest", str),
            take_uids(body, "missing"),
        )


def aborted(round_id: str, reason: str, missing: tuple[ExpertUid, ...] = ()) -> Verdict:
    """Return the verdict of a round that did not commit."""
    return Verdict(round_id, committed=False, reason=reason, missing=missing)
