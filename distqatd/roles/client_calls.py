"""What trainers and the client tell each other: `trainer.start/stop/evaluate`, `client.sync`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from distqatd.base.ids import PeerId
from distqatd.swarm.routes import Route, read_route, route_body
from distqatd.wire.fields import need

START = "trainer.start"
STOP = "trainer.stop"
EVALUATE = "trainer.evaluate"
SYNC = "client.sync"

SYNC_EVERY_S = 1.0
"""A trainer reports at least this often between steps, seconds."""

KEEP_IN_TOUCH_S = 5.0
"""... and this often while a step takes longer, so that it is not taken for dead."""


@dataclass(frozen=True, slots=True)
class Report:
    """A trainer tells the client how its pipeline stands, and asks for what it needs.

    Attributes:
        fence: of the lease it works under; 0 before the first.
        next_batch: first batch of the lease that is not committed.
        num_replayed: steps that were given up since the last report; their batches come again.
        num_skipped: batches below `next_batch` that were given up for good since then.
        lost: peers that did not answer.
        wants_lease: whether it is at the end of its lease, or has none.
        wants_route: whether its route failed, or it has none.
        outer_step: lowest committed outer step of the route's stages.
    """

    pipeline: int
    fence: int
    next_batch: int
    num_replayed: int
    num_skipped: int
    lost: tuple[PeerId, ...]
    wants_lease: bool
    wants_route: bool
    outer_step: int

    def body(self) -> dict[str, Any]:
        """Return the fields of the message."""
        return {
            "pipeline": self.pipeline,
            "fence": self.fence,
            "next_batch": self.next_batch,
            "num_replayed": self.num_replayed,
            "num_skipped": self.num_skipped,
            "lost": list(self.lost),
            "wants_lease": self.wants_lease,
            "wants_route": self.wants_route,
            "outer_step": self.outer_step,
        }

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Check and return the message."""
        return cls(
            need(body, "pipeline", int),
            need(body, "fence", int),
            need(body, "next_batch", int),
            need(body, "num_replayed", int),
            need(body, "num_skipped", int),
            tuple(PeerId(str(peer)) for peer in need(body, "lost", list)[:64]),
            need(body, "wants_lease", bool),
            need(body, "wants_route", bool),
            need(body, "outer_step", int),
        )


@dataclass(frozen=True, slots=True)
class Grant:
    """The client's answer: the lease, the route, or that it is over.

    Attributes:
        fence: of the lease; a session is opened under it.
        first: first batch to train.
        end: one past the last.
        route: empty while the pipeline has a gap: ask again.
        is_over: the trainer's job is done; `reason` says why.
    """

    fence: int
    first: int
    end: int
    route: Route
    is_over: bool
    reason: str

    def body(self) -> dict[str, Any]:
        """Return the fields of the message."""
        return {
            "fence": self.fence,
            "first": self.first,
            "end": self.end,
            "route": route_body(self.route),
            "is_over": self.is_over,
            "reason": self.reason,
        }

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Check and return the message."""
        return cls(
            need(body, "fence", int),
            need(body, "first", int),
            need(body, "end", int),
            read_route(need(body, "route", list)),
            need(body, "is_over", bool),
            need(body, "reason", str),
        )
