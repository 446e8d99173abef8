"""An asyncio event loop on virtual time: nothing waits, and the same run happens every time.

When no callback is ready the clock jumps to the next timer. Where asyncio's own behaviour would
depend on memory addresses (it keeps tasks and futures in sets, which iterate by hash), tasks and
futures here hash by the order in which they were made.
"""

import asyncio
import itertools
import os
from asyncio import base_events
from collections.abc import Coroutine
from contextvars import Context, ContextVar
from typing import Any, cast

START_S = 1000.0
"""What `loop.time()` begins with; not 0, so that "never" written as 0.0 is not taken for "now"."""

MAX_ROUNDS_AT_ONE_TIME = 200_000
"""Loop iterations without time passing, after which the simulated program must be spinning."""


class Life:
    """One run of a simulated machine, from boot to crash; a task belongs to one life."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True


_ASYNCIO = os.path.dirname(asyncio.__file__)

LIFE: ContextVar[Life | None] = ContextVar("sim_life", default=None)


class Deadlock(Exception):
    """Nothing is ready and no timer is set: whoever still waits will wait for ever."""


class Livelock(Exception):
    """Callbacks keep scheduling callbacks while no time passes."""


class TimeLimit(Exception):
    """The scenario was still running at its limit of virtual seconds."""


class SimFuture(asyncio.Future[Any]):
    """A future whose place in a set does not depend on its address."""

    def __init__(self, *, loop: "VirtualLoop") -> None:
        self.serial = next(loop.serials)
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.serial


class SimTask(asyncio.Task[Any]):
    """A task that knows which machine it runs on; hashed like SimFuture."""

    def __init__(
        self, coro: Coroutine[Any, Any, Any], *, loop: "VirtualLoop", **kwargs: Any
    ) -> None:
        self.serial = next(loop.serials)
        context: Context | None = kwargs.get("context")
        self.life = LIFE.get() if context is None else context.get(LIFE)
        super().__init__(coro, loop=loop, **kwargs)
        if self.life is not None and not self.life.alive:
            self.cancel("the machine has crashed")

    def __hash__(self) -> int:
        return self.serial


class VirtualLoop(base_events.BaseEventLoop):
    """The loop. It has no sockets and no threads; asking for them is an error."""

    def __init__(self, limit_s: float = 86_400.0) -> None:
        super().__init__()
        self.serials = itertools.count()
        self.failure: BaseException | None = None
        self.limit_s = START_S + limit_s
        self._now_s = START_S
        self._scheduled: list[asyncio.TimerHandle]
        self._clock_resolution = 1e-9
        self._selector = _TimeMachine(self)
        self.set_debug(False)
        self.set_exception_handler(_fail_on_unhandled)

    def time(self) -> float:
        """Return virtual seconds."""
        return self._now_s

    def fail(self, error: BaseException) -> None:
        """Stop the run with `error` before the next callbacks; the first failure wins."""
        self.failure = self.failure or error

    def create_future(self) -> SimFuture:
        """Return a future with a reproducible hash."""
        return SimFuture(loop=self)

    def create_task(self, coro: Any, **kwargs: Any) -> SimTask:
        """Start a task that belongs to the machine of whoever starts it."""
        return SimTask(coro, loop=self, **kwargs)

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Refuse: threads finish in no reproducible order."""
        raise RuntimeError("no threads on virtual time: inject tests.support.inline_executor")

    def tasks(self) -> list[SimTask]:
        """Return the unfinished tasks, oldest first."""
        tasks = [task for task in asyncio.all_tasks(self) if isinstance(task, SimTask)]
        return sorted(tasks, key=lambda task: task.serial)

    def waiting(self, limit: int = 20) -> str:
        """Describe the unfinished tasks and the lines they wait at."""
        tasks = self.tasks()
        lines = [f"  {task.get_name()} waits at {_innermost(task)}" for task in tasks[:limit]]
        if len(tasks) > limit:
            lines.append(f"  and {len(tasks) - limit} more")
        return "\n".join(lines) or "  no tasks"

    def _advance(self) -> None:
        """Jump to the first timer; `_run_once` has removed cancelled ones from the front."""
        when_s = self._scheduled[0].when()
        if when_s > self.limit_s:
            raise TimeLimit(f"still running after its limit of virtual time\n{self.waiting()}")
        self._now_s = max(self._now_s, when_s)

    def _process_events(self, event_list: object) -> None:
        """Do nothing: there are no file descriptors."""

    def _write_to_self(self) -> None:
        """Do nothing: no other thread can be waiting for this loop to wake."""


class _TimeMachine:
    """Stands where a loop has its selector, and moves time instead of waiting for sockets."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._rounds = 0

    def select(self, timeout: float | None) -> tuple[()]:
        """Let time pass until the first timer; `timeout` is 0 while callbacks are ready."""
        loop = self._loop
        if loop.failure is not None:
            raise loop.failure
        if timeout is None:
            raise Deadlock(f"nothing is scheduled, but these wait:\n{loop.waiting()}")
        if timeout > 0:
            self._rounds = 0
            loop._advance()
            return ()
        self._rounds += 1
        if self._rounds > MAX_ROUNDS_AT_ONE_TIME:
            self._rounds = 0
            raise Livelock(f"time stands still while callbacks run:\n{loop.waiting()}")
        return ()

    def close(self) -> None:
        """Do nothing."""


def _fail_on_unhandled(loop: Any, context: dict[str, Any]) -> None:
    """Turn what asyncio would only log (a lost exception, a raising callback) into a failure."""
    error = context.get("exception")
    unhandled = RuntimeError(f"unhandled in the loop: {context['message']}: {error!r}")
    unhandled.__cause__ = error
    loop.fail(unhandled)


def _innermost(task: SimTask) -> str:
    """Return file:line of the innermost `await` of a suspended task outside asyncio."""
    where, awaited = "its start", cast(Any, task.get_coro())
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None and not frame.f_code.co_filename.startswith(_ASYNCIO):
            where = f"{frame.f_code.co_filename}:{frame.f_lineno} ({frame.f_code.co_name})"
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return where
