"""Operations that outlive the command that asked for them: they run here, commands only watch."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from distqatd.base.clock import Clock
from distqatd.base.errors import ControlError, DistqatError, NotFound
from distqatd.base.ids import PeerId
from distqatd.base.tasks import Supervisor

MAX_JOBS = 64
"""Operations kept at most, running or over; the oldest that is over goes first."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What an operation is about.

    Attributes:
        kind: drain, resume or reassign.
        what: the same as people say it.
        peer_id: who acts.
        asked_by: whom its state is told.
        deadline_s: how long the drain in it may take.
    """

    kind: str
    what: str
    peer_id: PeerId
    asked_by: PeerId
    deadline_s: float


@dataclass(slots=True)
class Job:
    """One operation.

    Attributes:
        number: its name in this daemon's life.
        plan: what it is about.
        started_unix_s: when it began.
        started_at: the same in loop time.
        progress: tells where it stands.
        over: set once it has ended.
        message: how it ended.
        code: of the error that ended it; empty if all went well.
        exit_code: what a command that waited for it exits with.
        seconds: how long it ran, or runs.
    """

    number: int
    plan: Plan
    started_unix_s: float
    started_at: float
    progress: Callable[[], str]
    over: asyncio.Event = field(default_factory=asyncio.Event)
    message: str = ""
    code: str = ""
    exit_code: int = 0
    seconds: float = 0.0

    @property
    def is_over(self) -> bool:
        """Return whether it has ended."""
        return self.over.is_set()


Work = Callable[[], Awaitable[str]]
"""Does the work and returns how it ended; a DistqatError fails the job."""


class Jobs:
    """The operations of this daemon."""

    def __init__(self, tasks: Supervisor, clock: Clock) -> None:
        self._tasks = tasks
        self._clock = clock
        self._jobs: OrderedDict[int, Job] = OrderedDict()
        self._next_number = 1

    def start(self, plan: Plan, work: Work, progress: Callable[[], str]) -> Job:
        """Begin an operation and return at once.

        Raises:
            ControlError: too many run already.
        """
        self._make_room()
        now = asyncio.get_running_loop().time()
        job = Job(self._next_number, plan, self._clock.now(), now, progress)
        self._next_number += 1
        self._jobs[job.number] = job
        self._tasks.spawn(self._run(job, work), name=f"job.{job.number}")
        return job

    def get(self, number: int) -> Job:
        """Return an operation.

        Raises:
            NotFound: there is none of that number, or it ended long ago.
        """
        job = self._jobs.get(number)
        if job is None:
            raise NotFound(f"operation {number} is not known here (any more)")
        if not job.is_over:
            job.seconds = asyncio.get_running_loop().time() - job.started_at
        return job

    def all(self) -> tuple[Job, ...]:
        """Return the operations that are kept, oldest first."""
        return tuple(self.get(number) for number in self._jobs)

    def _make_room(self) -> None:
        if len(self._jobs) < MAX_JOBS:
            return
        over = next((number for number, job in self._jobs.items() if job.is_over), None)
        if over is None:
            raise ControlError(f"{MAX_JOBS} operations run already; wait for one to end")
        del self._jobs[over]

    async def _run(self, job: Job, work: Work) -> None:
        try:
            job.message = await work()
        except DistqatError as error:
            job.message = str(error)
            job.code, job.exit_code = error.wire_code, error.exit_code
        except asyncio.CancelledError:
            job.message = "the daemon stopped before it was done"
            job.code, job.exit_code = ControlError.wire_code, ControlError.exit_code
            raise
        finally:
            job.seconds = asyncio.get_running_loop().time() - job.started_at
            job.over.set()
