"""W&B in one thread of its own: offline first, never on the training path, never fatal.

`wandb.init` blocks and `log` raises when its child dies; both stay in this thread, and a failure
is an event, after which metrics are dropped.
"""

import queue
import threading  # noqa: TID251  W&B blocks: it gets one thread of its own
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

MAX_WAITING = 256


class WandbSink:
    """Logs metrics to one W&B run from its own thread."""

    def __init__(
        self,
        project: str,
        run_name: str,
        mode: Literal["offline", "online", "disabled"],
        folder: Path,
        config: dict[str, Any],
        on_failure: Callable[[str], None],
    ) -> None:
        self._project, self._name, self._mode = project, run_name, mode
        self._folder, self._config = folder, config
        self._on_failure = on_failure
        self._waiting: queue.Queue[tuple[dict[str, float | int], int] | None] = queue.Queue(
            MAX_WAITING
        )
        self._thread = threading.Thread(target=self._serve, name="distqat-wandb", daemon=True)
        self._thread.start()

    def log(self, metrics: dict[str, float | int], step: int) -> None:
        """Take one set of metrics; dropped when W&B does not keep up."""
        if not self._waiting.full():
            self._waiting.put_nowait((metrics, step))

    def close(self, timeout_s: float = 10.0) -> None:
        """Finish the run, waiting at most `timeout_s` seconds."""
        with suppress(queue.Full):
            self._waiting.put(None, timeout=timeout_s / 2)
        self._thread.join(timeout_s / 2)

    def _serve(self) -> None:
        try:
            self._log_all()
        except Exception as error:  # noqa: BLE001  whatever W&B raises must not reach training
            self._on_failure(f"{type(error).__name__}: {error}")

    def _log_all(self) -> None:
        import wandb  # noqa: TID251  heavy, and only a monitor with a project needs it

        self._folder.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=self._project,
            name=self._name,
            mode=self._mode,
            dir=self._folder,
            config=self._config,
            settings=wandb.Settings(silent=True),
        )
        while (item := self._waiting.get()) is not None:
            run.log(item[0], step=item[1])
        run.finish()
        wandb.teardown()  # ends its child process, which would outlive the run
