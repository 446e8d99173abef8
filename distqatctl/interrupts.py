"""Signals as a flag that is looked at in safe places, so that no child is started and forgotten."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Self

from distqatctl.errors import INTERRUPTED, CommandFailed

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """While entered, counts SIGINT, SIGTERM and SIGHUP instead of dying of them.

    Attributes:
        count: how many came.
        on_signal: called at each one, for whoever is blocked and cannot look at the count.
    """

    def __init__(self) -> None:
        self.count = 0
        self.on_signal: Callable[[], None] | None = None
        self._name = ""
        self._previous: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        """Take over the signals."""
        for number in _SIGNALS:
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.count += 1
        self._name = signal.Signals(number).name
        if self.on_signal is not None:
            self.on_signal()

    def check(self) -> None:
        """Stop here if a signal came.

        Raises:
            CommandFailed: one did; exit code 130.
        """
        if self.count:
            raise CommandFailed(f"stopped by {self._name}", code=INTERRUPTED)
