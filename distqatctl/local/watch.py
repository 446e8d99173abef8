"""What the client's daemon says about the run, and when that means the end."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from distqatctl.errors import CommandFailed
from distqatctl.local.fleet import Fleet
from distqatd.api.checkpoint_schema import Mirror
from distqatd.api.schema import Reply, RunInfo, Stage, Status

R = TypeVar("R", bound=Reply)


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
    def training(self) -> bool:
        """Return whether pipelines are at work."""
        training = self.status.training if self.status is not None else None
        return training is not None and training.state in {"training", "averaging"}

    @property
    def finished(self) -> bool:
        """Return whether the run is over and evaluated."""
        return self.run is not None and self.run.finished


class Watcher:
    """Looks at the run through a client's daemon; through the monitor's while there is none."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def look(self) -> Snapshot:
        """Return what the first one that answers says; nobody may be up yet."""
        for name in [*self._fleet.living("client"), *self._fleet.living("monitor")]:
            status = self._ask(name, Status, "/v1/status")
            if status is not None:
                return Snapshot(status, self._ask(name, RunInfo, "/v1/run"))
        return Snapshot()

    def kept_step(self) -> int:
        """Return the outer step of the newest checkpoint that a daemon keeps; -1 if there is none.

        Only monitors and clients keep any, and one of them at a time.
        """
        names = self._fleet.living("monitor", "client")
        mirrors = [self._ask(name, Mirror, "/v1/mirror") for name in names]
        return max((mirror.outer_step for mirror in mirrors if mirror is not None), default=-1)

    def _ask(self, name: str, kind: type[R], route: str) -> R | None:
        # Not up yet, no run yet, too busy for two seconds: all of it passes, or the process ends
        # or the run's deadline passes, and those are looked after elsewhere.
        try:
            return self._fleet.client(name).get(kind, route)
        except CommandFailed:
            return None


def all_at_step(snapshot: Snapshot, outer_step: int, replicas: Mapping[str, int]) -> bool:
    """Return whether every replica of every stage has announced this outer step."""
    return bool(snapshot.stages) and all(
        len(stage.experts) >= replicas.get(stage.name, 1)
        and all(expert.outer_step >= outer_step for expert in stage.experts)
        for stage in snapshot.stages
    )
