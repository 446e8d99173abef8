"""What travels between a trainer and the experts of its route, checked when read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from distqatd.base.errors import RemoteProtocolError
from distqatd.base.ids import ExpertUid
from distqatd.compute.scale import LARGEST, LossScale
from distqatd.net.book import parse_advertised
from distqatd.net.rpc import Rpc
from distqatd.pipeline.standing import BookReply as BookReply
from distqatd.pipeline.standing import Standing as Standing
from distqatd.pipeline.standing import read_scale
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
    """A step that every stage has done its part of: apply it, or drop it.

    Attributes:
        num_samples: samples in the step, the weight of this update in the outer step.
        batch: number of the batch in the run.
        scale: in fp16, the loss scale of the step: take it out of the gradients.
        drops: a stage has vetoed it: drop the gradients, the batch is run again in a later step.
    """

    step: int
    num_samples: int
    batch: int
    scale: LossScale | None = None
    drops: bool = False

    def body(self) -> dict[str, Any]:
        """Return the fields of a message."""
        return {
            "step": self.step,
            "num_samples": self.num_samples,
            "batch": self.batch,
            "scale": self.scale.body() if self.scale is not None else None,
            "drops": self.drops,
        }

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Check and return the fields of a message."""
        return cls(
            need(body, "step", int),
            need(body, "num_samples", int),
            need(body, "batch", int),
            read_scale(body),
            need(body, "drops", bool),
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
        loss_scale: in fp16, what the loss is multiplied by besides; 1.0 otherwise.
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
    loss_scale: float = 1.0

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
            "loss_scale": self.loss_scale,
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
            _read_factor(body, "pace", MAX_PACE),
            _read_factor(body, "loss_scale", LARGEST),
        )


def _read_factor(body: Mapping[str, Any], name: str, most: float) -> float:
    value = need(body, name, float)
    if not 0 < value <= most:
        raise RemoteProtocolError(f"a {name} of {value}, it is above 0 up to {most:g}")
    return value


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
