"""How far away a peer is, and how much goes through: round trips, then 4 MiB each way.

The answer also holds the peer's wall clock, which tells a wrong one from a right one.
"""

import asyncio
import statistics
from dataclasses import dataclass

from distqatd.base.clock import Clock
from distqatd.base.errors import RemoteProtocolError
from distqatd.base.ids import PeerId
from distqatd.net.rpc import Caller, Rpc
from distqatd.wire.fields import need
from distqatd.wire.payload import Message, TensorSpec, WireTensor

PING = "control.ping"
NUM_ROUND_TRIPS = 5
NUM_BYTES = 4 << 20
"""Bytes sent each way to measure bandwidth; the most that anybody can ask back."""

CALL_S = 10.0
TRANSFER_S = 60.0


@dataclass(frozen=True, slots=True)
class Echo:
    """How a peer answered.

    Attributes:
        rtt_s: the shortest of several round trips.
        jitter_s: the longest minus the shortest.
        up_bytes_per_s: what it took from us; None if that was not measured.
        down_bytes_per_s: what it gave us; None likewise.
        clock_ahead_s: how far its wall clock is ahead of ours, known to about the rtt.
    """

    rtt_s: float
    jitter_s: float
    up_bytes_per_s: float | None
    down_bytes_per_s: float | None
    clock_ahead_s: float


def serve_ping(rpc: Rpc, clock: Clock) -> None:
    """Answer pings of other members."""

    async def answer(_: Caller, message: Message) -> Message:
        num_bytes = need(message.body, "num_bytes", int)
        if not 0 <= num_bytes <= NUM_BYTES:
            raise RemoteProtocolError(f"a ping asks for {num_bytes} bytes, at most {NUM_BYTES}")
        return Message({"unix_s": clock.now()}, _padding(num_bytes))

    rpc.serve(PING, answer, max_bytes=NUM_BYTES + 4096)


async def ping(rpc: Rpc, clock: Clock, peer: PeerId, *, with_bandwidth: bool) -> Echo:
    """Measure the way to a peer.

    Raises:
        NetworkError: it does not answer.
    """
    trips: list[float] = []
    ahead: list[float] = []
    for _ in range(NUM_ROUND_TRIPS):
        seconds, unix_s = await _round_trip(rpc, peer, 0, 0, CALL_S)
        trips.append(seconds)
        ahead.append(unix_s + seconds / 2 - clock.now())
    rtt_s = min(trips)
    up = down = None
    if with_bandwidth:
        up = await _bytes_per_s(rpc, peer, rtt_s, send=NUM_BYTES, fetch=0)
        down = await _bytes_per_s(rpc, peer, rtt_s, send=0, fetch=NUM_BYTES)
    return Echo(rtt_s, max(trips) - rtt_s, up, down, statistics.median(ahead))


async def _bytes_per_s(rpc: Rpc, peer: PeerId, rtt_s: float, *, send: int, fetch: int) -> float:
    seconds, _ = await _round_trip(rpc, peer, send, fetch, TRANSFER_S)
    return (send + fetch) / max(seconds - rtt_s, 1e-6)


async def _round_trip(
    rpc: Rpc, peer: PeerId, send: int, fetch: int, timeout_s: float
) -> tuple[float, float]:
    """Return how long a call took, and what the peer's clock said."""
    loop = asyncio.get_running_loop()
    message = Message({"num_bytes": fetch}, _padding(send))
    began = loop.time()
    reply = await rpc.call(peer, PING, message, timeout_s=timeout_s)
    return loop.time() - began, need(reply.body, "unix_s", float)


def _padding(num_bytes: int) -> tuple[WireTensor, ...]:
    if num_bytes == 0:
        return ()
    spec = TensorSpec("padding", "uint8", (num_bytes,), num_bytes)
    return (WireTensor(spec, memoryview(bytes(num_bytes))),)
