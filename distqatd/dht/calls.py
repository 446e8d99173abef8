"""Requests on a lossy network: send, send again after an adaptive timeout, give up.

No task and no coroutine: a call is a timer and two callbacks, so it can be abandoned at any time
and costs nothing but its place among the pending ones.

The message id is 7 random bytes and the number of the try. A reply repeats it, so each reply is a
clean round-trip sample even after a retransmission, and the timeout learns of slow links.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from distqatd.base.rng import Rng
from distqatd.dht.contact import Endpoint
from distqatd.dht.limits import DhtLimits

OnDone = Callable[[list[Any] | None], None]
OnSlow = Callable[[int], None]


class RoundTrip:
    """Smoothed round-trip time and its variation, seconds [source: RFC 6298]."""

    def __init__(self, limits: DhtLimits) -> None:
        self._limits = limits
        self.mean_s = limits.initial_rtt_s
        self.deviation_s = limits.initial_rtt_s / 2

    @property
    def timeout_s(self) -> float:
        """Return how long to wait for a reply before sending again."""
        wanted = self.mean_s + 4 * self.deviation_s
        return min(self._limits.max_rto_s, max(self._limits.min_rto_s, wanted))

    def add(self, sample_s: float) -> None:
        """Learn from one reply."""
        self.deviation_s += (abs(sample_s - self.mean_s) - self.deviation_s) / 4
        self.mean_s += (sample_s - self.mean_s) / 8


@dataclass(slots=True)
class Call:
    """One request under way."""

    endpoint: Endpoint
    body: bytes
    call_id: bytes
    on_done: OnDone
    on_slow: OnSlow | None
    sent_at: list[float] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None


class Calls:
    """The requests under way, at most `limits.max_calls`.

    Args:
        send: seals and sends a body: (message id, body, endpoint).
        limits: tries, timeouts, and how many calls at once.
        rng: where message ids come from.
    """

    def __init__(
        self, send: Callable[[bytes, bytes, Endpoint], None], limits: DhtLimits, rng: Rng
    ) -> None:
        self._send = send
        self._limits = limits
        self._rng = rng
        self._pending: dict[bytes, Call] = {}
        self.round_trip = RoundTrip(limits)
        self.num_sent = 0
        self.num_retransmitted = 0

    def __len__(self) -> int:
        """Return how many calls wait for a reply."""
        return len(self._pending)

    @property
    def is_full(self) -> bool:
        """Return whether a request started now would count as unanswered at once."""
        return len(self._pending) >= self._limits.max_calls

    def start(
        self, endpoint: Endpoint, body: bytes, on_done: OnDone, on_slow: OnSlow | None = None
    ) -> None:
        """Send a request.

        `on_done` gets the reply's fields, or None when all tries went unanswered; it is never
        called before this returns. `on_slow` gets the number of tries that timed out so far.
        """
        loop = asyncio.get_running_loop()
        if self.is_full:
            loop.call_soon(on_done, None)
            return
        call = Call(endpoint, body, self._rng.randbytes(7), on_done, on_slow)
        self._pending[call.call_id] = call
        self._transmit(call, loop)

    def answer(self, message_id: bytes, endpoint: Endpoint, fields: list[Any]) -> bool:
        """Hand a reply to its call; False if no call waits for it from there."""
        call_id, number = message_id[:7], message_id[7]
        call = self._pending.get(call_id)
        if call is None or call.endpoint != endpoint or number >= len(call.sent_at):
            return False
        self.round_trip.add(asyncio.get_running_loop().time() - call.sent_at[number])
        self._finish(call, fields)
        return True

    def is_pending(self, message_id: bytes) -> bool:
        """Return whether a call waits for this reply, from wherever."""
        return message_id[:7] in self._pending

    def reflect(self, message_id: bytes, fields: list[Any]) -> None:
        """End a call whose request came back to ourselves: there is nobody else there."""
        call = self._pending.get(message_id[:7])
        if call is not None:
            self._finish(call, fields)

    def close(self) -> None:
        """End every call as unanswered."""
        for call in tuple(self._pending.values()):
            self._finish(call, None)

    def _transmit(self, call: Call, loop: asyncio.AbstractEventLoop) -> None:
        number = len(call.sent_at)
        self.num_sent += number == 0
        self.num_retransmitted += number > 0
        call.sent_at.append(loop.time())
        wait_s = min(2 * self._limits.max_rto_s, self.round_trip.timeout_s * 2**number)
        call.timer = loop.call_later(wait_s, self._timed_out, call)
        self._send(call.call_id + bytes([number]), call.body, call.endpoint)

    def _timed_out(self, call: Call) -> None:
        if len(call.sent_at) >= self._limits.tries:
            self._finish(call, None)
            return
        self._transmit(call, asyncio.get_running_loop())
        if call.on_slow is not None:
            call.on_slow(len(call.sent_at) - 1)

    def _finish(self, call: Call, fields: list[Any] | None) -> None:
        if call.timer is not None:
            call.timer.cancel()
        self._pending.pop(call.call_id, None)
        call.on_done(fields)
