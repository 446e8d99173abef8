"""What every role is given by the composition root."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from distqatd.base.clock import Clock
from distqatd.base.events import EventLog
from distqatd.base.ids import PeerId, RunId
from distqatd.base.reasons import Reasons
from distqatd.base.rng import Rng
from distqatd.base.tasks import Supervisor
from distqatd.config.sections import Config
from distqatd.net.rpc import Rpc
from distqatd.roles.directory import Directory


class Announcer(Protocol):
    """What roles need of the DHT to be found."""

    def announce(self, key: str, subkey: str, value: bytes, *, ttl_s: float) -> None:
        """Keep a record fresh; a changed value is published at once."""
        ...

    def withdraw(self, key: str, subkey: str) -> None:
        """Stop refreshing a record and take it back."""
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """This daemon, as its roles see it."""

    peer_id: PeerId
    boot_epoch: int
    run_id: RunId
    config: Config
    rpc: Rpc
    dht: Announcer
    directory: Directory
    clock: Clock
    rng: Rng
    events: EventLog
    tasks: Supervisor
    addresses: Callable[[], tuple[str, ...]]
    reasons: Reasons = field(default_factory=Reasons)

    def note(self, kind: str, subject: str, text: str) -> bool:
        """Keep why we did something, for `distqatctl why`; return whether the reason is new."""
        return self.reasons.note(kind, subject, text, self.clock.now())

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Return the run's stages in pipeline order."""
        return tuple(stage.stage for stage in self.config.model_pipeline.pipeline)
