"""One pipeline as its trainer keeps it: whose it is, what is lent, how it goes."""

import asyncio
import statistics
from collections import deque
from dataclasses import dataclass, field

from distqatd.base.errors import StaleTerm
from distqatd.base.ids import PeerId
from distqatd.net.rpc import Caller
from distqatd.pipeline.messages import CommitCall
from distqatd.pipeline.runner import RouteRunner
from distqatd.roles import client_calls as calls
from distqatd.roles.trainer_leases import Leases
from distqatd.swarm.routes import Hop, Route

NUM_TIMES = 15
MIN_TIMES = 3
"""Steps whose median duration is reported, at most and at least: the first one is a slow one."""

STEP_SMOOTHING = 0.1
"""Weight of the newest step in `step_s`, `link_bytes` and `samples_per_s`."""


@dataclass(slots=True)
class Progress:
    """How one job goes; published as a TrainerRecord.

    Attributes:
        step_s: seconds of a step, smoothed.
        link_bytes: bytes of a step's tensors on all links, smoothed.
        num_overflows: steps dropped because gradients overflowed; their batches were run again.
        loss_scale: in fp16; 0.0 otherwise.
    """

    step: int = 0
    loss: float = -1.0
    samples_per_s: float = 0.0
    step_s: float = 0.0
    num_samples: int = 0
    link_bytes: float = 0.0
    num_replayed: int = 0
    num_overflows: int = 0
    loss_scale: float = 0.0
    outer_step: int = 0
    route: tuple[str, ...] = ()
    first_step_unix_s: float = 0.0
    times_s: deque[float] = field(default_factory=lambda: deque(maxlen=NUM_TIMES))

    def count(self, loss: float, num_samples: int, took_s: float, link_bytes: int = 0) -> None:
        """Count a step that was decided."""
        self.step += 1
        self.loss = loss
        self.num_samples += num_samples
        self.times_s.append(took_s)
        weight = STEP_SMOOTHING if self.step_s else 1.0
        self.step_s += weight * (took_s - self.step_s)
        self.link_bytes += weight * (link_bytes - self.link_bytes)
        self.samples_per_s += weight * (num_samples / took_s - self.samples_per_s)

    @property
    def median_s(self) -> float:
        """Return the median seconds of the last steps; 0.0 while there are too few."""
        return statistics.median(self.times_s) if len(self.times_s) >= MIN_TIMES else 0.0


@dataclass(slots=True)
class Job:
    """One pipeline this daemon trains. Two tasks share it: one runs steps, one asks the client.

    Attributes:
        client: whom it reports to; follows the highest term of the client's duty it hears of.
        route: the one the client wants now; empty if there is none, or none known since a
            failure.
        must_leave: why the present route is to be left although there is no other; or "".
        session: number for the next session, from the client's last answer.
        pace: steps between two rounds for each inner step of the run, as the client said.
        over: why the job is over, once it is.
        is_leaving: it is over because the trainer leaves, not by the client's word.
        num_failures: grows with every failure of a route: an answer to a question from before
            the last one says nothing about routes.
        lost: peers to be reported as lost.
        due: set to have the client asked at once.
        news: set when the client has answered a question from after the last failure.
    """

    pipeline: int
    client: PeerId
    term: int = 0
    task: asyncio.Task[None] | None = None
    progress: Progress = field(default_factory=Progress)
    leases: Leases = field(default_factory=Leases)
    runner: RouteRunner | None = None
    route: Route = ()
    must_leave: str = ""
    session: int = 0
    pace: float = 1.0
    serial: int = 0
    over: str | None = None
    is_leaving: bool = False
    num_failures: int = 0
    lost: tuple[PeerId, ...] = ()
    unreported_replays: int = 0
    unreported_skips: int = 0
    unreported_overflows: int = 0
    unsettled: dict[Hop, CommitCall] = field(default_factory=dict)
    due: asyncio.Event = field(default_factory=asyncio.Event)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def check_term(self, caller: Caller, term: int) -> None:
        """Refuse a client whose duty is over, or who never had it.

        Raises:
            StaleTerm: the job follows a client with a higher term, or another one with this term.
        """
        if term < self.term or (term == self.term and caller.peer_id != self.client):
            raise StaleTerm(f"pipeline {self.pipeline} follows {self.client}, term {self.term}")

    def follow(self, client: PeerId, term: int) -> None:
        """Report to another client from now on, at once."""
        self.client, self.term = client, term
        self.due.set()

    def leave(self) -> None:
        """End after the present step, for another trainer to go on."""
        if self.over is None:
            self.over, self.is_leaving = "its trainer leaves", True
            self.news.set()

    def standing(self) -> calls.Report:
        """Return how the job stands, with nothing asked for."""
        unconfirmed = self.runner.unconfirmed if self.runner is not None else None
        return calls.Report(
            self.pipeline,
            self.term,
            self.leases.held(unconfirmed),
            num_replayed=0,
            num_skipped=0,
            lost=(),
            wants_lease=False,
            wants_route=False,
            outer_step=self.progress.outer_step,
            step_s=self.progress.median_s,
        )

    def report(self) -> calls.Report:
        """Return what to tell the client now."""
        standing = self.standing()
        return calls.Report(
            standing.pipeline,
            standing.term,
            standing.held,
            self.unreported_replays,
            self.unreported_skips,
            self.lost,
            self.leases.wants_more(self.progress.step_s),
            self.runner is None,
            standing.outer_step,
            step_s=standing.step_s,
            num_overflows=self.unreported_overflows,
        )

    def take(self, report: calls.Report, grant: calls.Grant, num_failures: int) -> None:
        """Take the client's answer to a report.

        Args:
            report: what was told.
            grant: the answer.
            num_failures: of the job when it was told.

        Raises:
            StaleTerm: it comes from a client whose duty is over.
        """
        if grant.term < self.term:
            raise StaleTerm(f"an answer of term {grant.term}, we follow {self.term}")
        self.term = grant.term
        self.unreported_replays -= report.num_replayed
        self.unreported_skips -= report.num_skipped
        self.unreported_overflows -= report.num_overflows
        self.lost = tuple(peer for peer in self.lost if peer not in report.lost)
        self.leases.answered(report.held)
        self.pace = grant.pace or self.pace
        if grant.is_over:
            self.over = grant.reason
        else:
            self.leases.take(grant)
        if num_failures == self.num_failures:
            self.route, self.session = grant.route, grant.session
            self.must_leave = "" if grant.route else grant.reason
            self.news.set()
        elif self.over is not None:
            self.news.set()
