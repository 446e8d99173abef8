"""What a daemon is given instead of reaching for it: the simulator gives other ones."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from distqatd.base.clock import Clock
from distqatd.base.disk import Disk
from distqatd.base.rng import Rng
from distqatd.net.meter import Meter
from distqatd.net.transport import Transport

if TYPE_CHECKING:  # the executor's module imports torch, which a monitor never does
    from distqatd.compute.executor import Executor


def unknown_bytes(_: str) -> int:
    """Return 0: how much memory is free is not known."""
    return 0


@dataclass(frozen=True, slots=True)
class Seams:
    """The outside world of one daemon; the event loop is the running one.

    Attributes:
        make_executor: opens the executor of a device, given its name and a number of threads.
        timer: seconds, for throughput of experts.
        in_thread: runs something slow beside the loop; used before there is an executor.
        ledger_disk: where promises of outer steps are kept; they must survive a crash.
        free_bytes: memory that a device, given by name, has left; 0 if unknown.
        meter: how fast the transport's connections carry bytes; one that knows nothing if they
            are not measured.
        data_folder: where the ring of a data server may be a file; None: there is no data server.
    """

    transport: Transport
    clock: Clock
    rng: Rng
    make_executor: Callable[[str, int], "Executor"]
    timer: Callable[[], float]
    in_thread: Callable[[Callable[[], object]], Awaitable[object]]
    ledger_disk: Disk
    free_bytes: Callable[[str], int] = unknown_bytes
    data_folder: Path | None = None
    meter: Meter = field(default_factory=Meter)
