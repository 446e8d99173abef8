"""Keeps a link alive: pings a silent peer, and notices one that is gone."""

import asyncio
from collections.abc import Callable

from distqatd.base.errors import ConnectionClosed

PING_AFTER_S = 5.0
DEAD_AFTER_S = 15.0


class Keeper:
    """Watches when a peer was last heard. Any byte counts: a long queue delays a PONG.

    Args:
        ping: sends a PING with a number.
    """

    def __init__(self, ping: Callable[[int], None]) -> None:
        self.rtt_s: float | None = None
        self._ping = ping
        self._nonce = 0
        self._pinged_s = 0.0
        self._heard_s = 0.0

    def heard(self, now_s: float) -> None:
        """Note that bytes came in."""
        self._heard_s = now_s

    def pong(self, nonce: int, now_s: float) -> None:
        """Note the answer to a ping; an old one says nothing about the link now."""
        if nonce == self._nonce:
            self.rtt_s = now_s - self._pinged_s

    async def run(self) -> None:
        """Ping once to measure the round trip, then whenever the peer is silent.

        Raises:
            ConnectionClosed: it was silent for 15 s.
        """
        loop = asyncio.get_running_loop()
        self._heard_s = loop.time()
        self._send(loop.time())
        while True:
            silent_s = loop.time() - self._heard_s
            if silent_s >= DEAD_AFTER_S:
                raise ConnectionClosed(f"silent for {silent_s:.0f} s")
            if silent_s >= PING_AFTER_S:
                self._send(loop.time())
            until_next_s = PING_AFTER_S - silent_s % PING_AFTER_S
            await asyncio.sleep(max(until_next_s, 0.01))  # rounding must not make it spin

    def _send(self, now_s: float) -> None:
        self._nonce += 1
        self._pinged_s = now_s
        self._ping(self._nonce)
