"""What trainers and the client tell each other: `trainer.*` and `client.sync`.

    client                                     trainer
      ── trainer.start {pipeline, term} ─────►   a job begins; an old term is refused
      ◄─ client.sync: Report ────────────────    how it stands, what it needs
      ── Grant ──────────────────────────────►   a lease, the route, or that it is over
      ── trainer.adopt {term} ───────────────►   a new client: jobs of older terms are its own now
      ◄─ [Report, ...] ──────────────────────

The client's duty has a `term` that grows with every holder. A job belongs to the client with the
highest term it has heard of.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from distqatd.base.errors import RemoteProtocolError
from distqatd.base.ids import PeerId
from distqatd.swarm.ledger import MAX_OPEN, MAX_TERM
from distqatd.swarm.pace import MAX_PACE
from distqatd.swarm.routes import Route, read_route, route_body
from distqatd.wire.fields import need

START = "trainer.start"
STOP = "trainer.stop"
ADOPT = "trainer.adopt"
EVALUATE = "trainer.evaluate"
SYNC = "client.sync"
HOST = "client.host_trainer"
"""The holder of the duty asks another client to run a trainer in its own daemon."""

SYNC_EVERY_S = 1.0
"""A trainer reports this often, seconds, also while a step takes longer."""

AHEAD_S = 20.0
"""A trainer asks for its next lease while those it holds last less than this, seconds: it has
work while the client's duty changes hands."""

MAX_HELD = MAX_OPEN
"""Leases that a trainer holds at once, at most."""

MAX_STEP_S = 1e6
MAX_REPORTED = 16
MAX_LOST = 64
MAX_JOBS = 256


def read_term(body: Mapping[str, Any], name: str = "term") -> int:
    """Check and return a term of the client's duty; 0 stands for none.

    Raises:
        RemoteProtocolError: it is missing, negative, or higher than a term can get.
    """
    term = need(body, name, int)
    if not 0 <= term < MAX_TERM:
        raise RemoteProtocolError(f"{name} {term} is not within 0 and {MAX_TERM}")
    return term


def _read_share(body: Mapping[str, Any], name: str, most: float) -> float:
    value = need(body, name, float)
    if not 0 <= value <= most:
        raise RemoteProtocolError(f"{name} {value} is not within 0 and {most}")
    return value


@dataclass(frozen=True, slots=True)
class Held:
    """A lease as its trainer sees it: [first, next) is committed, [next, end) is not.

    A lease that is done (`next == end`) is reported until a client has answered the report.
    """

    fence: int
    first: int
    next: int
    end: int

    @property
    def is_done(self) -> bool:
        """Return whether every batch of the lease is committed."""
        return self.next >= self.end

    def body(self) -> list[int]:
        """Return the lease as it travels."""
        return [self.fence, self.first, self.next, self.end]

    @classmethod
    def read(cls, value: Any) -> Self:
        """Check and return a lease from a message.

        Raises:
            RemoteProtocolError: it is not `[fence, first, next, end]`, in ascending order from 0.
        """
        is_list = isinstance(value, list) and [type(part) for part in value] == [int] * 4
        if not is_list or value[0] < 0 or not 0 <= value[1] <= value[2] <= value[3] < 2**53:
            shown = str(value)[:60]
            raise RemoteProtocolError(f"a lease is {shown!r}, expected [fence, first, next, end]")
        return cls(*value)


@dataclass(frozen=True, slots=True)
class Report:
    """A trainer tells the client how its pipeline stands, and asks for what it needs.

    Attributes:
        term: of the client that the job belongs to, as far as the trainer knows.
        held: the leases it works through, in this order; empty before the first.
        num_replayed: steps that were given up since the last report; their batches come again.
        num_skipped: batches below `next` that were given up for good since then.
        lost: peers that did not answer.
        wants_lease: whether what it holds will soon be done, or it holds nothing.
        wants_route: whether its route failed, or it has none.
        outer_step: lowest committed outer step of the route's stages.
        leaves: whether this is the job's last report: the trainer leaves, and nothing is open.
        step_s: seconds that a step takes, the median of the last ones; 0.0 while unknown.
        num_overflows: steps that were dropped since the last report because gradients overflowed.
    """

    pipeline: int
    term: int
    held: tuple[Held, ...]
    num_replayed: int
    num_skipped: int
    lost: tuple[PeerId, ...]
    wants_lease: bool
    wants_route: bool
    outer_step: int
    leaves: bool = False
    step_s: float = 0.0
    num_overflows: int = 0

    def body(self) -> dict[str, Any]:
        """Return the fields of the message."""
        return {
            "pipeline": self.pipeline,
            "term": self.term,
            "held": [lease.body() for lease in self.held],
            "num_replayed": self.num_replayed,
            "num_skipped": self.num_skipped,
            "lost": list(self.lost),
            "wants_lease": self.wants_lease,
            "wants_route": self.wants_route,
            "outer_step": self.outer_step,
            "leaves": self.leaves,
            "step_s": self.step_s,
            "num_overflows": self.num_overflows,
        }

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Check and return the message.

        Raises:
            RemoteProtocolError: a field is missing, of another type, or too long.
        """
        held = need(body, "held", list)
        if len(held) > MAX_REPORTED:
            raise RemoteProtocolError(f"a report of {len(held)} leases, at most {MAX_REPORTED}")
        return cls(
            need(body, "pipeline", int),
            read_term(body),
            tuple(Held.read(lease) for lease in held),
            need(body, "num_replayed", int),
            need(body, "num_skipped", int),
            tuple(PeerId(str(peer)) for peer in need(body, "lost", list)[:MAX_LOST]),
            need(body, "wants_lease", bool),
            need(body, "wants_route", bool),
            need(body, "outer_step", int),
            need(body, "leaves", bool),
            _read_share(body, "step_s", MAX_STEP_S),
            need(body, "num_overflows", int),
        )


@dataclass(frozen=True, slots=True)
class Grant:
    """The client's answer: a lease if there is one for the trainer, the route, or that it is over.

    Attributes:
        term: of the client's duty; the job follows the highest it hears of.
        fence: of a lease to add to those held; 0: none. The same fence may be offered again
            while the trainer's reports do not name it: an answer can be lost.
        first: first batch of the lease.
        end: one past its last.
        route: the one the client wants, always; empty while the pipeline has a gap: ask again, and
            go on along the old one while it works: the client may be wrong. Only if `reason` is
            given, leave it in order: an expert of it drains, and no other takes its place.
        is_over: the trainer's job is done; `reason` says why.
        session: number for a session on this route. It grows with every grant, so that of two
            trainers with one expert in their routes the one that was told last wins.
        pace: steps that the pipeline takes between two rounds for each inner step of the run; 0.0:
            as before.
    """

    term: int
    fence: int
    first: int
    end: int
    route: Route
    is_over: bool
    reason: str
    session: int = 0
    pace: float = 0.0

    def body(self) -> dict[str, Any]:
        """Return the fields of the message."""
        return {
            "term": self.term,
            "fence": self.fence,
            "first": self.first,
            "end": self.end,
            "route": route_body(self.route),
            "is_over": self.is_over,
            "reason": self.reason,
            "session": self.session,
            "pace": self.pace,
        }

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Check and return the message.

        Raises:
            RemoteProtocolError: a field is missing or of another type, or the range is none.
        """
        names = ("fence", "first", "first", "end")
        lease = Held.read([need(body, name, int) for name in names])
        return cls(
            read_term(body),
            lease.fence,
            lease.first,
            lease.end,
            read_route(need(body, "route", list)),
            need(body, "is_over", bool),
            need(body, "reason", str),
            need(body, "session", int),
            _read_share(body, "pace", MAX_PACE),
        )


def reports_body(reports: tuple[Report, ...]) -> dict[str, Any]:
    """Return the answer to ADOPT: how every job of the trainer stands."""
    return {"reports": [report.body() for report in reports]}


def read_reports(body: Mapping[str, Any]) -> tuple[Report, ...]:
    """Check and return the answer to ADOPT.

    Raises:
        RemoteProtocolError: it is no list of reports, or too long.
    """
    found = need(body, "reports", list)
    if len(found) > MAX_JOBS or not all(isinstance(report, dict) for report in found):
        raise RemoteProtocolError(f"{len(found)} reports, at most {MAX_JOBS}, each a map")
    return tuple(Report.read(report) for report in found)
