"""What the client's daemon says about the run, and when that means the end."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from distqatctl.client import Client
from distqatctl.errors import CommandFailed
from distqatd.api.schema import Reply, RunInfo, Stage, Status

R = TypeVar("R", bound=Reply)

_POLL_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One look at the run; None where the daemon could not say yet."""

    status: Status | None = None
    run: RunInfo | None = None

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Return the stages, in the order of the model."""
        return self.status.stages if self.status is not None else ()

    @property
    def finished(self) -> bool:
        """Return whether the run is over and evaluated."""
        return self.run is not None and self.run.finished


class Watcher:
    """Looks at one daemon again and again."""

    def __init__(self, socket: Path) -> None:
        self._client = Client(socket, timeout_s=_POLL_TIMEOUT_S)

    def look(self) -> Snapshot:
        """Return what the daemon says now; a daemon that is not up yet says nothing."""
        status = self._ask(Status, "/v1/status")
        return Snapshot(status, self._ask(RunInfo, "/v1/run") if status is not None else None)

    def _ask(self, kind: type[R], route: str) -> R | None:
        # Not up yet, no run yet, too busy for two seconds: all of it passes, or the process ends
        # or the run's deadline passes, and those are looked after elsewhere.
        try:
            return self._client.get(kind, route)
        except CommandFailed:
            return None


def all_at_step(snapshot: Snapshot, outer_step: int, experts_per_stage: int) -> bool:
    """Return whether every replica of every stage has announced this outer step."""
    return bool(snapshot.stages) and all(
        len(stage.experts) >= experts_per_stage
        and all(expert.outer_step >= outer_step for expert in stage.experts)
        for stage in snapshot.stages
    )
