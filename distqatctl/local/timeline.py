"""What the daemons of a run say happened, put together in the order in which it did."""

from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from distqatctl import text
from distqatctl.errors import CommandFailed
from distqatctl.local.fleet import Fleet
from distqatd.api.schema import Event

_KEPT = 5_000

STORY = frozenset(
    {
        "step.aborted", "stage.gap", "stage.filled", "expert.placed", "expert.state_loaded",
        "expert.serving", "pipeline.staffed", "pipeline.opened", "pipeline.running",
        "pipeline.rerouted", "trainer.lost", "trainer.started", "duty.taken", "client.silent",
        "lease.continued", "run.finished",
    }
)  # fmt: skip
"""Kinds of events that tell how a swarm gets over a loss."""


@dataclass(frozen=True, slots=True)
class Said:
    """An event and the daemon that said it."""

    daemon: str
    event: Event

    @property
    def at_unix_s(self) -> float:
        """Return when it happened; all daemons of a machine have one clock."""
        return self.event.time_unix_s

    @property
    def pipeline(self) -> int | None:
        """Return the pipeline that it is about, if any."""
        number = self.event.fields.get("pipeline")
        return number if isinstance(number, int) else None

    def line(self, since_unix_s: float) -> str:
        """Return it as a line, with its time from an instant on."""
        fields = " ".join(f"{key}={value}" for key, value in self.event.fields.items())
        after = f"{self.at_unix_s - since_unix_s:+.2f} s"
        return text.clean(f"{after:>9}  {self.daemon:<10} {self.event.kind} {fields}")[:160]


class Timeline:
    """Collects the events of all living daemons; the oldest go when there are too many."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._last: dict[str, int] = {}
        self._said: deque[Said] = deque(maxlen=_KEPT)

    def collect(self) -> list[Said]:
        """Ask everybody, and return what is new, oldest first."""
        new = [said for name in self._fleet.living() for said in self._ask(name)]
        self._said.extend(sorted(new, key=lambda said: said.at_unix_s))
        return sorted(new, key=lambda said: said.at_unix_s)

    def all(self) -> list[Said]:
        """Return everything that was said so far, oldest first."""
        return sorted(self._said, key=lambda said: said.at_unix_s)

    def _ask(self, name: str) -> Iterable[Said]:
        # Not up yet, or too busy for two seconds: it is asked again.
        with suppress(CommandFailed):
            for event in self._fleet.client(name).events(since=self._last.get(name, 0)):
                self._last[name] = event.number
                yield Said(name, event)


def resumed_from(said: Iterable[Said]) -> int | None:
    """Return the outer step of the checkpoint that experts began with, if they did."""
    loaded = [one.event.fields for one in said if one.event.kind == "expert.state_loaded"]
    steps = [fields.get("outer_step") for fields in loaded if fields.get("source") == "mirror"]
    return min((step for step in steps if isinstance(step, int)), default=None)
