"""How a daemon ends: the first SIGTERM or SIGINT drains it, the second one ends it at once."""

import asyncio
import os
import signal
from collections.abc import Callable

from distqatd.base.tasks import Supervisor
from distqatd.daemon.node import Node
from distqatd.daemon.options import Options
from distqatd.daemon.systemd import Notifier

ORPHAN_GRACE_S = 3.0
STOP_MARGIN_S = 30.0
"""What the rest of a stop may take after the drain; systemd is told to wait so long."""

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def drain_seconds(options: Options) -> float:
    """Return how long a signal lets experts drain.

    A daemon with a parent leaves at once: its parent stops the whole swarm, and nobody would be
    there to take over.
    """
    return 0.0 if options.parent_fd is not None else options.config.control.stop_deadline


class Stopper:
    """Takes the signals, and the end of the parent.

    Args:
        node: what to stop.
        tasks: where the drain runs.
        notifier: tells systemd.
        end: ends the process at once with an exit code.
    """

    def __init__(
        self,
        node: Node,
        tasks: Supervisor,
        notifier: Notifier,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self._node = node
        self._tasks = tasks
        self._notifier = notifier
        self._end = end

    def install(self) -> None:
        """Take SIGTERM and SIGINT over from Python."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.on_signal, number)

    def on_signal(self, number: signal.Signals) -> None:
        """Begin to leave; a second signal ends the process at once."""
        node = self._node
        if node.stopping.is_set() or node.is_leaving:
            self._end(128 + number.value)
            return
        deadline_s = drain_seconds(node.options)
        microseconds = int((deadline_s + STOP_MARGIN_S) * 1e6)
        self._notifier.send("STOPPING=1", "STATUS=draining", f"EXTEND_TIMEOUT_USEC={microseconds}")
        self._tasks.spawn(node.drain_and_stop(number.name, deadline_s), name="stop")

    def watch_parent(self, parent_fd: int | None) -> None:
        """Stop at once when the pipe's other end closes: the parent is gone, however it died."""
        if parent_fd is None:
            return
        loop = asyncio.get_running_loop()

        def on_readable() -> None:
            if os.read(parent_fd, 1) == b"":
                loop.remove_reader(parent_fd)
                self._node.stop("the parent process is gone")
                # Nobody is left who would stop us again if the orderly way took long.
                loop.call_later(ORPHAN_GRACE_S, self._end, 1)

        loop.add_reader(parent_fd, on_readable)
