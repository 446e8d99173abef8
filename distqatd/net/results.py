"""Answers that a caller may ask for again: a request sent twice runs to the end at most once."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from distqatd.base.errors import ConnectionClosed
from distqatd.base.ids import PeerId
from distqatd.wire.messages import Failure, RequestHead
from distqatd.wire.payload import Message

Outcome = Message | Failure

_MAX_RESULTS = 1024
_MAX_BYTES = 16 << 20
_MAX_CALLERS = 1024


class ResultWindow:
    """What one caller (a peer since its last start) has asked and may not have heard yet.

    Results go when the caller says it has them, or, oldest first, when they are too many or
    too large; a repeated request for one of those fails instead of running again.
    """

    def __init__(self, max_results: int = _MAX_RESULTS, max_bytes: int = _MAX_BYTES) -> None:
        self._max_results = max_results
        self._max_bytes = max_bytes
        self._running: dict[int, asyncio.Future[Outcome]] = {}
        self._results: OrderedDict[int, Outcome] = OrderedDict()
        self._num_bytes = 0
        self._floor = 0  # below it, a result may have gone

    async def once(self, head: RequestHead, run: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """Return the outcome of a request: of an earlier run, or of `run()` now.

        A run that was cancelled (its link died) does not count; the request may run again.
        """
        sequence = head.sequence
        self._acknowledge(head.acked)
        while sequence in self._running:
            await asyncio.wait([self._running[sequence]])
        known = self._results.get(sequence)
        if known is not None:
            return known
        if head.is_retry and sequence < self._floor:
            text = f"request {sequence} was answered on a broken link; the answer is gone"
            return Failure(ConnectionClosed.wire_code, text)
        return await self._run(sequence, run)

    async def _run(self, sequence: int, run: Callable[[], Awaitable[Outcome]]) -> Outcome:
        done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._running[sequence] = done
        try:
            outcome = await run()
            self._keep(sequence, outcome)
        finally:
            del self._running[sequence]
            done.cancel()
        return outcome

    def _acknowledge(self, acked: int) -> None:
        while self._results and (first := next(iter(self._results))) < acked:
            self._drop(first)

    def _keep(self, sequence: int, outcome: Outcome) -> None:
        self._results[sequence] = outcome
        self._num_bytes += _num_bytes(outcome)
        while len(self._results) > self._max_results or self._num_bytes > self._max_bytes:
            first = next(iter(self._results))
            self._floor = max(self._floor, first + 1)
            self._drop(first)

    def _drop(self, sequence: int) -> None:
        self._num_bytes -= _num_bytes(self._results.pop(sequence))


class ResultWindows:
    """The windows of all callers; the one that was silent longest goes when they are too many."""

    def __init__(self) -> None:
        self._windows: OrderedDict[PeerId, tuple[int, ResultWindow]] = OrderedDict()

    def of(self, peer: PeerId, boot_epoch: int) -> ResultWindow:
        """Return the window of a peer; a restarted peer gets a new one."""
        epoch, window = self._windows.get(peer, (None, None))
        if window is None or epoch != boot_epoch:
            window = ResultWindow()
            self._windows[peer] = boot_epoch, window
        self._windows.move_to_end(peer)
        if len(self._windows) > _MAX_CALLERS:
            self._windows.popitem(last=False)
        return window


def _num_bytes(outcome: Outcome) -> int:
    return outcome.tensor_bytes if isinstance(outcome, Message) else 0
