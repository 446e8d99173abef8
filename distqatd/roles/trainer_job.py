"""One pipeline as its trainer keeps it: whose it is, what is lent, how it goes."""

import asyncio
from dataclasses import dataclass, field

from distqatd.base.errors import StaleTerm
from distqatd.base.ids import PeerId
from distqatd.net.rpc import Caller
from distqatd.pipeline.messages import CommitCall
from distqatd.roles import client_calls as calls
from distqatd.swarm.routes import Hop


@dataclass(slots=True)
class Progress:
    """How one job goes; published as a TrainerRecord."""

    step: int = 0
    loss: float = -1.0
    samples_per_s: float = 0.0
    num_samples: int = 0
    num_replayed: int = 0
    outer_step: int = 0
    route: tuple[str, ...] = ()
    first_step_unix_s: float = 0.0


@dataclass(slots=True)
class Job:
    """One pipeline this daemon trains."""

    pipeline: int
    client: PeerId
    term: int = 0
    task: asyncio.Task[None] | None = None
    progress: Progress = field(default_factory=Progress)
    fence: int = 0
    first: int = 0
    next_batch: int = 0
    end: int = 0
    unreported_replays: int = 0
    unreported_skips: int = 0
    num_non_finite: int = 0
    serial: int = 0
    unsettled: dict[Hop, CommitCall] = field(default_factory=dict)
    reported_at: float = 0.0
    syncing: asyncio.Lock = field(default_factory=asyncio.Lock)


def check_term(job: Job, caller: Caller, term: int) -> None:
    """Refuse a client whose duty is over, or who never had it.

    Raises:
        StaleTerm: the job follows a client with a higher term, or another one with this term.
    """
    if term < job.term or (term == job.term and caller.peer_id != job.client):
        raise StaleTerm(f"pipeline {job.pipeline} follows {job.client}, term {job.term}")


def standing(job: Job) -> calls.Report:
    """Return how a job stands, with nothing asked for."""
    held = calls.Held(job.fence, job.first, job.next_batch, job.end)
    return calls.Report(
        job.pipeline,
        job.term,
        (held,) if job.fence else (),
        num_replayed=0,
        num_skipped=0,
        lost=(),
        wants_lease=False,
        wants_route=False,
        outer_step=job.progress.outer_step,
    )
