"""Calls between machines that are lost, late, repeated, and cut off in the middle.

Harsher than the real links: a request may be served twice, its answer lost, and one that nobody
waits for any more is served to its end.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from distqatd.base.errors import (
    ConnectionClosed,
    DialError,
    DistqatError,
    NotServed,
    PeerTimeout,
    error_for_code,
)
from distqatd.base.rng import Rng
from distqatd.net.rpc import Caller
from tests.sim.host import Host
from tests.sim.sim import Sim
from tests.support.memory_rpc import _received

SILENCE_S = 4.0
"""So long a link may be silent before both ends take it for lost."""


@dataclass(frozen=True, slots=True)
class Weather:
    """What happens to calls: shares that are lost (either way), served twice, and late."""

    loss: float = 0.0
    duplication: float = 0.0
    lateness: float = 0.0
    latency_s: float = 0.02


class Calls:
    """All machines, and who can reach whom."""

    def __init__(self, sim: Sim, weather: Weather) -> None:
        self.sim = sim
        self.weather = weather
        self.rng = sim.rng
        self.ends: dict[str, CallEnd] = {}
        self.num_served = 0
        self._cut: set[frozenset[str]] = set()
        self._pending: dict[asyncio.Future[None], frozenset[str]] = {}

    def reaches(self, one: str, other: str) -> bool:
        """Return whether two machines can talk now."""
        return one == other or frozenset((one, other)) not in self._cut

    def delay_s(self) -> float:
        """Return how long a message takes."""
        late_s = self.rng.uniform(0, 1.5) if self.rng.random() < self.weather.lateness else 0.0
        return self.rng.uniform(0.2, 2.0) * self.weather.latency_s + late_s

    def cut(self, group: list[str], others: list[str]) -> None:
        """Let nothing through between two groups; they notice after some silence."""
        pairs = {frozenset((one, other)) for one in group for other in others}
        self._cut |= pairs
        self.sim.loop.call_later(SILENCE_S, self._notice, pairs)

    def heal(self) -> None:
        """Let everything through again."""
        self._cut.clear()

    def calm(self) -> None:
        """Heal, and lose no more calls; they still come late, and twice."""
        self.heal()
        self.weather = replace(self.weather, loss=0.0)

    def break_links(self, pairs: set[frozenset[str]], reason: str) -> None:
        """Break what is on the way between machines, and tell those that live."""
        for future, pair in list(self._pending.items()):
            if pair in pairs and not future.done():
                future.set_exception(ConnectionClosed(reason))
        for pair in sorted(pairs, key=sorted):
            one, other = sorted(pair)
            self.ends[one].lose(other, reason)
            self.ends[other].lose(one, reason)

    def died(self, peer: str, *, silently: bool) -> None:
        """Have others notice a death: at once, or after some silence."""
        pairs = {frozenset((peer, other)) for other in self.ends if other != peer}
        wait_s = SILENCE_S if silently else self.weather.latency_s
        self.sim.loop.call_later(wait_s, self.break_links, pairs, f"{peer} is gone")

    def _notice(self, pairs: set[frozenset[str]]) -> None:
        self.break_links(pairs & self._cut, "silence")

    async def carry(self, source: "CallEnd", target: "CallEnd", method, message, sink):
        """Take a request there and its answer back, if the network lets it."""
        broken: asyncio.Future[None] = self.sim.loop.create_future()
        self._pending[broken] = frozenset((source.peer_id, target.peer_id))
        try:
            trip = self.sim.loop.create_task(
                self._trip(source, target, method, message, sink), name=method
            )
            trip.add_done_callback(_seen)
            await asyncio.wait([trip, broken], return_when=asyncio.FIRST_COMPLETED)
            if trip.done():
                return trip.result()
            trip.cancel()
            return broken.result()
        finally:
            del self._pending[broken]
            broken.cancel()

    async def _trip(self, source: "CallEnd", target: "CallEnd", method, message, sink):
        await asyncio.sleep(self.delay_s())
        if not source.host.alive or self._loses(source, target):
            await self._for_ever()
        if not target.host.alive:
            if target.is_silent:
                await self._for_ever()
            raise DialError(f"{target.peer_id} refused")
        request = _received(message, target.sink(method))
        if self.rng.random() < self.weather.duplication:
            self.sim.loop.call_later(
                self.delay_s(), self._again, source, target.peer_id, method, request
            )
        answer = await self._answer(source, target, method, request)
        await asyncio.sleep(self.delay_s())
        if not target.host.alive or self._loses(target, source):
            await self._for_ever()
        if isinstance(answer, DistqatError):
            raise error_for_code(answer.wire_code)(str(answer))
        return _received(answer, sink)

    def _again(self, source: "CallEnd", peer: str, method, request) -> None:
        """Serve a request once more, perhaps to another life of the machine."""
        if self.ends[peer].host.alive:
            self.ends[peer].handle(source, method, _received(request, self.ends[peer].sink(method)))

    async def _answer(self, source: "CallEnd", target: "CallEnd", method, request):
        task = target.handle(source, method, request)
        await asyncio.wait([task])
        if task.cancelled():  # the machine has crashed
            await self._for_ever()
        return task.result()

    def _loses(self, source: "CallEnd", target: "CallEnd") -> bool:
        lost = self.rng.random() < self.weather.loss
        return lost or not self.reaches(source.peer_id, target.peer_id)

    async def _for_ever(self) -> None:
        await self.sim.loop.create_future()


def _seen(task: "asyncio.Future[object]") -> None:
    """Have nobody complain of an error in an answer that nobody waits for any more."""
    if not task.cancelled():
        task.exception()


class CallEnd:
    """One life of one machine; implements `distqatd.net.rpc.Rpc`."""

    def __init__(self, calls: Calls, host: Host, name: str) -> None:
        self.peer_id = name
        self.host = host
        self.life = host.life
        self.is_silent = False
        self._calls = calls
        self._served = {}
        self._on_lost: list[Callable[[str, str], None]] = []
        calls.ends[name] = self

    @property
    def rng(self) -> Rng:
        """Return this life's chance."""
        return self.host.rng

    def serve(self, method, handler, *, max_bytes=0, sink=None) -> None:
        """Answer requests for a method."""
        self._served[method] = (handler, sink)

    def sink(self, method):
        """Return where the tensors of a request are received."""
        return self._served[method][1] if method in self._served else None

    def learn(self, peer, addresses) -> None:
        """Do nothing: everybody is known."""

    def on_lost(self, callback) -> None:
        """Have `callback` told of links that ended."""
        self._on_lost.append(callback)

    def lose(self, peer: str, reason: str) -> None:
        """Tell those who want to know that a link has ended."""
        for callback in self._on_lost if self.life.alive else ():
            callback(peer, reason)

    async def call(self, peer, method, message, *, timeout_s, sink=None):
        """Ask a peer and return its answer."""
        if peer == self.peer_id:
            async with asyncio.timeout(timeout_s):
                return await self._served[method][0](Caller(peer, 1, ()), message)
        try:
            async with asyncio.timeout(timeout_s):
                target = self._calls.ends[peer]
                return await self._calls.carry(self, target, method, message, sink)
        except TimeoutError as error:
            raise PeerTimeout(f"{peer} did not answer {method} in {timeout_s} s") from error

    def handle(self, source: "CallEnd", method, message) -> "asyncio.Future[object]":
        """Serve a request on this machine, also if nobody waits for the answer."""
        work = self._handle(source.peer_id, method, message)
        task = self.host.spawn(work, name=method)
        task.add_done_callback(lambda _: work.close())  # if it crashes before it begins
        return task

    async def _handle(self, peer: str, method, message):
        self._calls.num_served += 1
        if method not in self._served:
            return NotServed(f"{method} is not served here")
        try:
            return await self._served[method][0](Caller(peer, 1, ()), message)
        except DistqatError as error:
            return error
