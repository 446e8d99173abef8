"""A run's progress: a bar on a terminal, lines elsewhere; always on standard error."""

import sys
import time
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from distqatctl import text
from distqatctl.local.watch import Snapshot

_LINE_EVERY_S = 5.0


class Display(Protocol):
    """Where progress is shown."""

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(self, *_: object) -> None:
        """End; what was shown stays or goes as fits the medium."""
        ...

    def say(self, message: str) -> None:
        """Show a message that stays."""
        ...

    def show(self, line: str, done: float, total: float) -> None:
        """Show where the run is: `done` of `total` outer steps."""
        ...


def describe(snapshot: Snapshot, experts_per_stage: int) -> str:
    """Return the state of a run in one line."""
    status = snapshot.status
    if status is None:
        return "waiting for the client to come up"
    training = status.training
    if training is None or training.state == "waiting":
        serving = [
            f"{stage.name} {stage.num_replicas}/{experts_per_stage}" for stage in status.stages
        ]
        return "waiting for experts: " + (", ".join(serving) or "none yet")
    parts = [
        f"outer step {training.outer_step}/{training.outer_steps}",
        f"loss {text.loss_text(training.loss)}",
        f"{text.number(training.samples_per_s)} samples/s",
        text.plural(training.num_pipelines, "pipeline"),
    ]
    if status.gaps:
        parts.append("gap in " + ", ".join(gap.stage for gap in status.gaps))
    return "  ".join(parts)


def progress_of(snapshot: Snapshot) -> tuple[float, float]:
    """Return how many outer steps are done and how many there are."""
    run = snapshot.run
    return (0.0, 1.0) if run is None else (float(run.outer_step), float(run.outer_steps))


class Bar:
    """A progress bar on a terminal."""

    def __init__(self) -> None:
        self._progress = Progress(
            BarColumn(bar_width=24),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=Console(stderr=True, highlight=False),
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=None)

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bar."""
        self._progress.stop()

    def say(self, message: str) -> None:
        """Print a message above the bar."""
        self._progress.console.print(text.clean(message), markup=False)

    def show(self, line: str, done: float, total: float) -> None:
        """Redraw."""
        self._progress.update(self._task, description=text.clean(line), completed=done, total=total)


class Lines:
    """Plain lines: one when something changed that matters, at most one in five seconds else."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._last_shown = -_LINE_EVERY_S
        self._last_done = -1.0
        self._last_line = ""

    def __enter__(self) -> Self:
        """Begin to count time."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to clear."""

    def say(self, message: str) -> None:
        """Print a message."""
        print(text.clean(message), file=sys.stderr, flush=True)

    def show(self, line: str, done: float, total: float) -> None:
        """Print the line if an outer step was made or the last one is old."""
        now = time.perf_counter()
        due = done != self._last_done or now - self._last_shown >= _LINE_EVERY_S
        if not due or line == self._last_line:
            return
        self._last_done, self._last_shown, self._last_line = done, now, line
        self.say(f"{text.duration(now - self._began):>8}  {line}")


def open_display() -> Display:
    """Return what suits standard error."""
    return Bar() if sys.stderr.isatty() else Lines()
