"""What every part of a round needs, handed down as one value."""

import asyncio
from dataclasses import dataclass, field

from distqatd.averaging.memory import ChunkMemory
from distqatd.averaging.plan import margin_s
from distqatd.averaging.records import Verdicts
from distqatd.base.events import EventLog
from distqatd.base.rng import Rng
from distqatd.compute.executor import Executor
from distqatd.config.sections import DilocoConfig
from distqatd.net.rpc import Rpc


@dataclass(frozen=True, slots=True)
class Tools:
    """The seams of a round, the verdicts this peer knows, and memory that rounds use again."""

    rpc: Rpc
    executor: Executor
    config: DilocoConfig
    rng: Rng
    events: EventLog
    verdicts: Verdicts
    memory: ChunkMemory = field(default_factory=ChunkMemory)

    @property
    def margin_s(self) -> float:
        """Return the time kept free for one exchange of small messages."""
        return margin_s(self.config.averaging_timeout)


def now() -> float:
    """Return the running loop's time, in seconds."""
    return asyncio.get_running_loop().time()
