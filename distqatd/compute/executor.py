"""One owned thread per device: torch work runs there, in order of priority, never on the loop."""

import asyncio
import itertools
import queue
import threading  # noqa: TID251  this file owns the compute threads
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch

from distqatd.base.errors import ComputeError, OutOfMemory

T = TypeVar("T")

_CLOSE = -(1 << 62)
"""Priority of the request to end: before all work."""


class Executor(Protocol):
    """Where blocking work runs."""

    async def run(self, work: Callable[[], T], *, priority: int = 0) -> T:
        """Return `work()`; lower priorities go first, equal ones in the order of the calls."""
        ...

    def close(self) -> bool:
        """Take no more work; return whether everything has ended."""
        ...


@dataclass(order=True, slots=True)
class _Job:
    priority: int
    sequence: int
    work: Callable[[], Any] = field(compare=False)
    loop: asyncio.AbstractEventLoop | None = field(compare=False, default=None)
    future: asyncio.Future[Any] | None = field(compare=False, default=None)
    cancelled: bool = field(compare=False, default=False)


class DeviceExecutor:
    """Runs work for one device on a thread of its own, which starts with the first work.

    A caller that is cancelled does not stop work that has begun; work that has not is skipped.
    """

    def __init__(self, device: str, num_threads: int = 0) -> None:
        """Name the thread after `device`.

        Args:
            device: for the thread's name.
            num_threads: torch threads for the work (a setting of the calling thread under
                OpenMP, so it is made on ours); 0 leaves torch's choice.
        """
        self._num_threads = num_threads
        self._jobs: queue.PriorityQueue[_Job] = queue.PriorityQueue()
        self._sequence = itertools.count()
        self._thread = threading.Thread(
            target=self._serve, name=f"distqat-compute-{device}", daemon=True
        )
        self._started = False
        self._closed = False

    @property
    def num_waiting(self) -> int:
        """Return how much work has not begun."""
        return self._jobs.qsize()

    async def run(self, work: Callable[[], T], *, priority: int = 0) -> T:
        """Run `work` on the device's thread and return its result or raise its error.

        Raises:
            OutOfMemory: torch could not allocate.
            ComputeError: the executor is closed, or was closed before the work began.
        """
        if self._closed:
            raise ComputeError("the compute thread is closed")
        if not self._started:
            self._started = True
            self._thread.start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        job = _Job(priority, next(self._sequence), work, loop, future)
        self._jobs.put(job)
        try:
            return await future
        except asyncio.CancelledError:
            job.cancelled = True
            raise

    def close(self, timeout_s: float = 5.0) -> bool:
        """End the thread after the work it is at; what waits fails with ComputeError.

        Blocks for at most `timeout_s` seconds; call it when the loop has nothing left to serve.
        Returns whether the thread has ended. It never keeps the process alive.
        """
        if not self._closed:
            self._closed = True
            self._jobs.put(_Job(_CLOSE, next(self._sequence), _nothing))
        if not self._started:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        if self._num_threads:
            torch.set_num_threads(self._num_threads)
        while (job := self._jobs.get()).priority != _CLOSE:
            if not job.cancelled:
                _execute(job)
            # Not kept until the next job comes: results can be large tensors.
            del job
        self._refuse_waiting()

    def _refuse_waiting(self) -> None:
        while not self._jobs.empty():
            _answer(self._jobs.get(), None, ComputeError("the compute thread was closed"))


def _nothing() -> None:
    """Stand in for work in the job that closes."""


def _execute(job: _Job) -> None:
    try:
        result = job.work()
    except BaseException as error:  # noqa: BLE001  carried to the caller, whatever it is
        _answer(job, None, _translated(error))
    else:
        _answer(job, result, None)


def _answer(job: _Job, result: Any, error: BaseException | None) -> None:
    if job.loop is None or job.future is None:
        return
    try:
        job.loop.call_soon_threadsafe(_settle, job.future, result, error)
    except RuntimeError:
        # The loop is closed: nobody waits any more.
        return


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def _translated(error: BaseException) -> BaseException:
    """Return OutOfMemory for what torch and Python raise when memory is short."""
    # The CPU allocator raises a plain RuntimeError, told apart only by its text.
    text = str(error)
    short = isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in text
    )
    if not short:
        return error
    translated = OutOfMemory(f"the device has no room: {text.splitlines()[0] if text else error}")
    translated.__cause__ = error
    return translated
