"""Where one expert stands in one route: which step is open, which are applied. No I/O.

    opened(session) ──► step 1 open ──commit──► step 1 applied ──► step 2 open ...
                             │
                        abort/replaced ──► closed: everything of this session is refused

Rules. Steps of a session are numbered from 1 and applied in order. Work of step s may start when
s - 1 is applied and no round is running. A message of an applied step is a repetition; one of a
closed or replaced session is refused with StepAborted, so that its sender replays the batch.
"""

from dataclasses import dataclass, field

from distqatd.base.errors import LocalProtocolError, StepAborted
from distqatd.pipeline.messages import SessionId
from distqatd.swarm.routes import Route

READY = "ready"
MAX_AHEAD = 2
"""A trainer sends the next step while one is committed, never more: it bounds what is held."""

HOLD = "hold"
"""Answers of `admit`: start the work now, or wait until something changes."""


@dataclass(slots=True)
class Session:
    """One expert's part in one route.

    Attributes:
        position: index of the expert's stage in the route.
        applied: the last step that was committed here; 0 before the first.
        done: microbatches of the open step whose backward has finished.
        is_short: our device has run out of memory in it.
        is_shrunk: fewer microbatches are let in since.
        awaits_round: the trainer waits for a round of some stage: no step comes before that.
    """

    id: SessionId
    route: Route
    position: int
    num_microbatches: int
    loss_at_trainer: bool
    trainer: str
    applied: int = 0
    is_closed: bool = False
    close_reason: str = ""
    started: set[int] = field(default_factory=set)
    done: set[int] = field(default_factory=set)
    is_short: bool = False
    is_shrunk: bool = False
    awaits_round: bool = False

    @property
    def is_first(self) -> bool:
        """Return whether the expert hosts the first stage of the route."""
        return self.position == 0

    @property
    def is_last(self) -> bool:
        """Return whether the expert hosts the last stage of the route."""
        return self.position == len(self.route) - 1

    @property
    def is_idle(self) -> bool:
        """Return whether no microbatch of a step has been started."""
        return not self.started

    def admit(self, step: int, microbatch: int, *, is_paused: bool) -> str:
        """Say whether work on the microbatch may start: READY or HOLD.

        Raises:
            StepAborted: the session is closed, or the step was applied already.
        """
        if self.is_closed:
            raise StepAborted(f"session {self.id} is closed: {self.close_reason}")
        is_next = step == self.applied + 1
        if step <= self.applied or (is_next and microbatch in self.started):
            raise StepAborted(f"step {step} microbatch {microbatch} was taken already")
        if step > self.applied + MAX_AHEAD:
            raise StepAborted(f"step {step} is too far ahead: {self.applied} is applied")
        if not 0 <= microbatch < self.num_microbatches:
            raise StepAborted(f"microbatch {microbatch} of {self.num_microbatches}")
        return READY if is_next and not is_paused else HOLD

    def start(self, microbatch: int) -> None:
        """Note that work on a microbatch of the open step has begun."""
        self.started.add(microbatch)
        self.awaits_round = False

    def finish(self, microbatch: int) -> None:
        """Note that the microbatch's backward is done here."""
        self.done.add(microbatch)

    def may_commit(self, step: int) -> bool:
        """Say whether COMMIT(step) applies something; False if it is a repetition.

        Raises:
            StepAborted: the session is closed.
            LocalProtocolError: the step is not the open one, or not all of it is done.
        """
        if step <= self.applied:
            return False
        if self.is_closed:
            raise StepAborted(f"session {self.id} is closed: {self.close_reason}")
        if step != self.applied + 1 or len(self.done) != self.num_microbatches:
            raise LocalProtocolError(
                f"COMMIT of step {step}: step {self.applied} is applied and "
                f"{len(self.done)} of {self.num_microbatches} microbatches are done"
            )
        return True

    def commit(self, step: int) -> None:
        """Note that the step is applied.

        Runs on the device's thread while `admit` may run on the loop: `applied` goes last, so
        that no microbatch of the next step is taken for a repetition.
        """
        self.started.clear()
        self.done.clear()
        self.applied = step

    def close(self, reason: str) -> None:
        """Refuse everything of this session from now on."""
        self.is_closed = True
        self.close_reason = self.close_reason or reason
