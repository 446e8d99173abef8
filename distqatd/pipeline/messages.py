"""What travels between a trainer and the experts of its route, checked when read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from distqatd.base.errors import RemoteProtocolError
from distqatd.base.ids import ExpertUid
from distqatd.base.intervals import IntervalSet
from distqatd.compute.book import BatchBook
from distqatd.net.book import parse_advertised
from distqatd.net.rpc import Rpc
from distqatd.swarm.pace import MAX_PACE
from distqatd.swarm.routes import Route, read_route, route_body
from distqatd.wire.fields import need

OPEN = "pipeline.open"
FORWARD = "pipeline.forward"
LOSS = "pipeline.loss"
COMMIT = "pipeline.commit"
ABORT = "pipeline.abort"
ROUND = "pipeline.round"
EVALUATE = "pipeline.evaluate"
STANDING = "pipeline.standing"
BOOK = "pipeline.book"
DRIVES = "pipeline.drives"
DECIDED = "pipeline.decided"


def learn_route(rpc: Rpc, route: Route) -> None:
    """Put the addresses of a route's peers into the address book."""
    for hop in route:
        if hop.addresses and hop.peer_id != rpc.peer_id:
            rpc.learn(hop.peer_id, parse_advertised(hop.addresses))


@dataclass(frozen=True, slots=True, order=True)
class SessionId:
    """One use of a route by one trainer; a higher id replaces a lower one on an expert.

    Attributes:
        fence: fencing number of the trainer's lease, unique in the run.
        serial: counts the routes the trainer opened under this fence.
    """

    fence: int
    serial: int

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Return the session a message belongs to."""
        return cls(need(body, "fence", int), need(body, "serial", int))

    def body(self) -> dict[str, Any]:
        """Return the fields of a message."""
        return {"fence": self.fence, "serial": self.serial}


@dataclass(frozen=True, slots=True)
class OpenCall:
    """A trainer takes an expert into its route.

    Attributes:
        first: first batch of the lease that the session begins with; the answer says which of
            [first, end) is the first that the expert has not applied.
        end: one past the lease's last batch.
    """

    uid: ExpertUid
    session: SessionId
    route: Route
    num_microbatches: int
    loss_at_trainer: bool
    first: int = 0
    end: int = 0

    def body(self) -> dict[str, Any]:
        """Return the fields of the message."""
        return {
            "uid": self.uid,
            **self.session.body(),
            "route": route_body(self.route),
            "num_microbatches": self.num_microbatches,
            "loss_at_trainer": self.loss_at_trainer,
            "first": self.first,
            "end": self.end,
        }

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Check and return the message."""
        return cls(
            ExpertUid(need(body, "uid", str)),
            SessionId.read(body),
            read_route(need(body, "route", list)),
            need(body, "num_microbatches", int),
            need(body, "loss_at_trainer", bool),
            need(body, "first", int),
            need(body, "end", int),
        )


@dataclass(frozen=True, slots=True)
class Decided:
    """A step that every stage has done its part of: apply it.

    Attributes:
        num_samples: samples in the step, the weight of this update in the outer step.
        batch: number of the batch in the run.
    """

    step: int
    num_samples: int
    batch: int

    def body(self) -> dict[str, Any]:
        """Return the fields of a message."""
        return {"step": self.step, "num_samples": self.num_samples, "batch": self.batch}

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Check and return the fields of a message."""
        return cls(
            need(body, "step", int), need(body, "num_samples", int), need(body, "batch", int)
        )


@dataclass(frozen=True, slots=True)
class MicrobatchCall:
    """One microbatch of one step, for FORWARD and LOSS.

    Attributes:
        scale: samples of the microbatch / samples of the step; the loss is multiplied by it, so
            that the step's gradient is that of the whole batch.
        seed: seeds dropout, so that a replay draws the same masks.
        num_targets: so many of the last tensors are the targets, on their way to the last stage.
        decided: the step before, to be applied first; every stage passes it on.
        pace: steps that this pipeline takes between two rounds for each inner step of the run.
    """

    uid: ExpertUid
    session: SessionId
    step: int
    microbatch: int
    scale: float
    seed: int
    num_targets: int = 0
    decided: Decided | None = None
    pace: float = 1.0

    def body(self) -> dict[str, Any]:
        """Return the fields of the message."""
        return {
            "uid": self.uid,
            **self.session.body(),
            "step": self.step,
            "mb": self.microbatch,
            "scale": self.scale,
            "seed": self.seed,
            "num_targets": self.num_targets,
            "decided": self.decided.body() if self.decided is not None else None,
            "pace": self.pace,
        }

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Check and return the message."""
        decided = body.get("decided")
        return cls(
            ExpertUid(need(body, "uid", str)),
            SessionId.read(body),
            need(body, "step", int),
            need(body, "mb", int),
            need(body, "scale", float),
            need(body, "seed", int),
            need(body, "num_targets", int),
            Decided.read(need(body, "decided", dict)) if decided is not None else None,
            _read_pace(body),
        )


def _read_pace(body: Mapping[str, Any]) -> float:
    pace = need(body, "pace", float)
    if not 0 < pace <= MAX_PACE:
        raise RemoteProtocolError(f"a pace of {pace}, it is above 0 up to {MAX_PACE:g}")
    return pace


@dataclass(frozen=True, slots=True)
class CommitCall:
    """COMMIT by itself: where no next step carries it, and again after a failure."""

    uid: ExpertUid
    session: SessionId
    decided: Decided

    def body(self) -> dict[str, Any]:
        """Return the fields of the message."""
        return {"uid": self.uid, **self.session.body(), **self.decided.body()}

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Check and return the message."""
        uid = ExpertUid(need(body, "uid", str))
        return cls(uid, SessionId.read(body), Decided.read(body))


@dataclass(frozen=True, slots=True)
class AskCall:
    """A question about an expert's part in a session, for ROUND and STANDING.

    Attributes:
        first: first batch of the lease that is asked about, as in OpenCall; ROUND has none.
        end: one past its last batch.
    """

    uid: ExpertUid
    session: SessionId
    first: int = 0
    end: int = 0

    def body(self) -> dict[str, Any]:
        """Return the fields of the message."""
        return {"uid": self.uid, **self.session.body(), "first": self.first, "end": self.end}

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Check and return the message."""
        uid = ExpertUid(need(body, "uid", str))
        return cls(uid, SessionId.read(body), need(body, "first", int), need(body, "end", int))


@dataclass(frozen=True, slots=True)
class DrivesReply:
    """Whether a trainer still drives a session, and what was decided in it; for DRIVES and DECIDED.

    Attributes:
        decided: the step whose COMMIT the expert has not heard, as far as is known.
    """

    drives: bool
    decided: Decided | None

    def body(self) -> dict[str, Any]:
        """Return the fields of the message."""
        return {
            "drives": self.drives,
            "decided": self.decided.body() if self.decided is not None else None,
        }

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Check and return the message."""
        decided = body.get("decided")
        return cls(
            need(body, "drives", bool),
            Decided.read(need(body, "decided", dict)) if decided is not None else None,
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an expert stands, in replies to OPEN, COMMIT, ROUND and STANDING.

    Attributes:
        next_batch: first batch of the lease asked about that is not in the expert's book; the
            lease's end if all are; 0 where no lease was asked about.
        in_round: a round is due or running, and steps wait for it.
    """

    outer_step: int
    inner_step: int
    steps_to_round: int
    anchor_digest: str
    next_batch: int = 0
    in_round: bool = False

    def body(self) -> dict[str, Any]:
        """Return the fields of the message."""
        return {
            "outer_step": self.outer_step,
            "inner_step": self.inner_step,
            "steps_to_round": self.steps_to_round,
            "anchor_digest": self.anchor_digest,
            "next_batch": self.next_batch,
            "in_round": self.in_round,
        }

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Check and return the message."""
        return cls(
            need(body, "outer_step", int),
            need(body, "inner_step", int),
            need(body, "steps_to_round", int),
            need(body, "anchor_digest", str),
            need(body, "next_batch", int),
            need(body, "in_round", bool),
        )


@dataclass(frozen=True, slots=True)
class BookReply:
    """An expert's book of batches: the answer to BOOK.

    Attributes:
        fence: the highest that a session here has had; 0 if there was none since it started.
        outer_step: of the anchor.
        duplicated: batches that rounds of this expert found on more than one replica.
    """

    book: BatchBook
    fence: int
    outer_step: int
    duplicated: int = 0

    def body(self) -> dict[str, Any]:
        """Return the fields of the message."""
        return {
            "anchor": self.book.anchor.to_list(),
            "local": self.book.local.to_list(),
            "fence": self.fence,
            "outer_step": self.outer_step,
            "duplicated": self.duplicated,
        }

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Check and return the message.

        Raises:
            RemoteProtocolError: it is no book.
        """
        sets = [need(body, name, list) for name in ("anchor", "local")]
        try:
            book = BatchBook(*(IntervalSet.read(ranges) for ranges in sets))
        except ValueError as error:
            raise RemoteProtocolError(f"an expert's book: {error}") from error
        counts = [need(body, name, int) for name in ("fence", "outer_step", "duplicated")]
        return cls(book, *counts)
