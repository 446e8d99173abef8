"""What every part of a round needs, handed down as one value."""

import asyncio
from dataclasses import dataclass, field

from distqatd.averaging.bandwidth import Bandwidth
from distqatd.averaging.ledger import Ledger
from distqatd.averaging.memory import ChunkMemory
from distqatd.averaging.plan import margin_s
from distqatd.base.events import EventLog
from distqatd.base.rng import Rng
from distqatd.compute.executor import Executor
from distqatd.config.schedules import RunSchedule
from distqatd.config.sections import DilocoConfig
from distqatd.net.rpc import Rpc


@dataclass(frozen=True, slots=True)
class Tools:
    """The seams of a round; promises, what our line carries and used memory of this daemon."""

    rpc: Rpc
    executor: Executor
    config: DilocoConfig
    rng: Rng
    events: EventLog
    ledger: Ledger
    bandwidth: Bandwidth = field(default_factory=Bandwidth)
    memory: ChunkMemory = field(default_factory=ChunkMemory)

    @property
    def margin_s(self) -> float:
        """Return the time kept free for one exchange of small messages."""
        return margin_s(self.config.averaging_timeout)

    def fragment(self, outer_step: int) -> int | None:
        """Return which part of a stage a round on the anchor of `outer_step` takes; None: all."""
        return RunSchedule(self.config).fragment(outer_step)


def now() -> float:
    """Return the running loop's time, in seconds."""
    return asyncio.get_running_loop().time()
