"""Wall time as a seam. Durations never come from here: they come from the running loop."""

import time
from typing import Protocol


class Clock(Protocol):
    """Source of wall time."""

    def now(self) -> float:
        """Return seconds since the Unix epoch, UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Return seconds since the Unix epoch, UTC."""
        return time.time()
