"""A trainer's end of the data server: batches out of the ring, and what to do without it."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from distqatd import __version__
from distqatd.base.backoff import Backoff
from distqatd.base.errors import (
    ComputeError,
    ConfigError,
    ConnectionClosed,
    DistqatError,
    PeerTimeout,
)
from distqatd.base.events import EventLog
from distqatd.base.rng import Rng
from distqatd.compute.executor import Executor
from distqatd.data.batches import Batch, Finish
from distqatd.data.ring import Ring, RingSize
from distqatd.data.slots import validation_key
from distqatd.data.source import Raw
from distqatd.data.trial import Trial
from distqatd.roles import data_calls as calls
from distqatd.roles.batches import Batches, LaterBatches
from distqatd.roles.packets import Packets, connect
from distqatd.wire.fields import need

T = TypeVar("T")

WELCOME_S = 120.0
WELCOME_OR_OWN_S = 30.0
"""A server may take so long to load torch and open the data, seconds; the second, if we could open
the data ourselves. If we have, it is not waited for."""

READY_S = 60.0
"""A batch may take so long to be prepared, seconds."""

MAX_REASON = 200
"""Characters of a reason that are kept."""

BACKOFF = Backoff(first_s=0.2, cap_s=5.0)
"""Between attempts to reach a server that is gone."""


class Server:
    """A connection to a data server that has said welcome."""

    def __init__(
        self, name: str, say_lost: Callable[[str], None], say_left: Callable[[str], None]
    ) -> None:
        """Connect to whoever listens under `name`; `open` waits for the welcome.

        Args:
            name: where it listens.
            say_lost: told why it is gone, if it did not say so before.
            say_left: told what it said when it ended in order.

        Raises:
            DialError: nobody does.
        """
        self._say_lost = say_lost
        self._say_left = say_left
        self._welcome: asyncio.Future[Ring] = asyncio.get_running_loop().create_future()
        self._ready: dict[int, asyncio.Future[int]] = {}
        self._ring: Ring | None = None
        self._farewell = ""
        self.num_validation_batches = 0
        self._packets = Packets(connect(name), self._on_packet, self._on_closed)
        self._packets.send({"do": calls.HELLO, "version": __version__})

    @property
    def is_open(self) -> bool:
        """Return whether it still answers, as far as is known."""
        return self._packets.is_open

    @property
    def is_ready(self) -> bool:
        """Return whether it has said welcome, and was heard."""
        return self._ring is not None and self.is_open

    async def open(self, within_s: float) -> bool:
        """Wait until the server has its data; return whether it has.

        Raises:
            ConfigError: it cannot open them.
            ConnectionClosed: it is gone.
        """
        try:
            async with asyncio.timeout(within_s):
                self._ring = await asyncio.shield(self._welcome)
        except TimeoutError:
            return False
        return True

    async def take(self, key: int, end: int, use: Callable[[Raw, Ring], Awaitable[T]]) -> T:
        """Have `use` make something of a batch while it lies in the ring.

        Raises:
            ConnectionClosed, PeerTimeout: the server is gone, or does not answer.
            ComputeError: it cannot prepare this batch, or somebody waits for it already.
        """
        if self._ring is None or not self.is_open:
            raise ConnectionClosed("the data server is gone")
        if key in self._ready:
            raise ComputeError(f"batch {key} is asked for already")
        slot = await self._slot_of(key, end)
        try:
            return await use(self._ring.read(slot), self._ring)
        finally:
            self._packets.send({"do": calls.DONE, "slot": slot})

    def close(self) -> None:
        """Let go of the connection; what was held is free for others."""
        self._packets.close()

    async def _slot_of(self, key: int, end: int) -> int:
        ready = self._ready[key] = asyncio.get_running_loop().create_future()
        self._packets.send({"do": calls.WANT, "key": key, "end": end})
        try:
            async with asyncio.timeout(READY_S):
                return await asyncio.shield(ready)
        except TimeoutError:
            self.close()
            raise PeerTimeout(f"the data server gave no batch {key} in {READY_S:.0f} s") from None
        except asyncio.CancelledError:
            self._ready.pop(key, None)
            if ready.done() and not ready.exception():
                self._packets.send({"do": calls.DONE, "slot": ready.result()})
            raise

    def _on_packet(self, packet: dict[str, Any], fds: list[int]) -> None:
        try:
            do = need(packet, "do", str)
            if do == calls.WELCOME and len(fds) == 1 and not self._welcome.done():
                self._welcome.set_result(self._map(calls.Welcome.read(packet), fds[0]))
            elif do == calls.REFUSE and not self._welcome.done():
                self._welcome.set_exception(ConfigError(need(packet, "reason", str)))
            elif do in (calls.READY, calls.FAIL):
                self._answer(do, packet)
            elif do == calls.BYE:
                self._farewell = need(packet, "reason", str)[:MAX_REASON]
        finally:
            for fd in fds:
                os.close(fd)

    def _map(self, welcome: calls.Welcome, fd: int) -> Ring:
        self.num_validation_batches = welcome.num_validation_batches
        return Ring(fd, RingSize(welcome.num_slots, welcome.slot_bytes))

    def _answer(self, do: str, packet: dict[str, Any]) -> None:
        waiting = self._ready.pop(need(packet, "key", int), None)
        if waiting is None or waiting.done():
            if do == calls.READY:  # whoever wanted it does not any more
                self._packets.send({"do": calls.DONE, "slot": need(packet, "slot", int)})
        elif do == calls.READY:
            waiting.set_result(need(packet, "slot", int))
        else:
            waiting.set_exception(ComputeError(need(packet, "reason", str)))

    def _on_closed(self, reason: str) -> None:
        waiting: list[asyncio.Future[Any]] = [self._welcome, *self._ready.values()]
        self._ready.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(ConnectionClosed(f"the data server: {reason}"))
                future.exception()  # perhaps nobody waits
        if self._farewell:
            self._say_left(self._farewell)
        else:
            self._say_lost(reason)


class ServedBatches:
    """Batches of the data server; while it is gone, of a data set of our own, if there may be one.

    Batches are the same wherever they come from, and which ones a trainer runs is the client's
    ledger's to say: a server that dies loses nothing.
    """

    def __init__(
        self,
        name: str,
        finish: Finish,
        executor: Executor,
        own: LaterBatches | None,
        events: EventLog,
        rng: Rng,
        *,
        plays: bool = False,
    ) -> None:
        """Prepare to be served.

        Args:
            name: where the server listens.
            finish: makes batches of what lies in the ring.
            executor: where that is done.
            own: what to use while no server answers; None: wait for one.
            events: told when a server comes and goes.
            rng: for delays.
            plays: whether the data set has an environment.
        """
        self._name = name
        self._finish = finish
        self._executor = executor
        self._own = own
        self._events = events
        self._rng = rng
        self._server: Server | None = None
        self._connecting = asyncio.Lock()
        self._plays = plays
        self._num_failures = 0
        self._again_at = 0.0
        self._was_served = False

    async def batch(self, number: int, end: int) -> Batch:
        """Return training batch `number`; those below `end` are prepared in the meantime."""

        def of_ring(raw: Raw, ring: Ring) -> Batch:
            return _owned(self._finish.training(raw, number), ring)

        async def served(server: Server) -> Batch:
            return await server.take(number, end, partial(self._on_device, of_ring))

        async def ours(own: Batches) -> Batch:
            return await own.batch(number, end)

        return await self._from_either(served, ours)

    async def validation(self) -> list[Batch]:
        """Return every validation sample once."""

        def of_ring(index: int, raw: Raw, ring: Ring) -> Batch:
            return _owned(self._finish.validation(raw, index), ring)

        async def served(server: Server) -> list[Batch]:
            return [
                await server.take(
                    validation_key(index), 0, partial(self._on_device, partial(of_ring, index))
                )
                for index in range(server.num_validation_batches)
            ]

        async def ours(own: Batches) -> list[Batch]:
            return await own.validation()

        return await self._from_either(served, ours)

    async def trial(self) -> Trial | None:
        """Return a fresh trial of the model in its environment, where the data set has one."""
        return await self._own.trial() if self._plays and self._own is not None else None

    def close(self) -> None:
        """Let go of the server."""
        if self._server is not None:
            self._server.close()

    async def _on_device(self, work: Callable[[Raw, Ring], Batch], raw: Raw, ring: Ring) -> Batch:
        return await self._executor.run(partial(work, raw, ring))

    async def _from_either(
        self,
        served: Callable[[Server], Awaitable[T]],
        ours: Callable[[Batches], Awaitable[T]],
    ) -> T:
        """Ask the server; if that fails ourselves, or, where we may not, the server again."""
        while True:
            try:
                server = await self._reach()
                if server is not None:
                    return await served(server)
            except DistqatError as error:
                if self._own is None and isinstance(error, ConfigError):
                    raise
                self._note_failure(str(error))
            if self._own is not None:
                return await ours(self._own)
            await asyncio.sleep(BACKOFF.delay_s(max(self._num_failures, 1), self._rng))

    async def _reach(self) -> Server | None:
        """Return the server, once it is ready; None if it is not to be waited for."""
        async with self._connecting:
            now = asyncio.get_running_loop().time()
            if self._server is None or not self._server.is_open:
                if self._own is not None and now < self._again_at:
                    return None
                self._again_at = now + BACKOFF.delay_s(self._num_failures + 1, self._rng)
                self._server = Server(self._name, self._say_lost, self._say_left)
            server = self._server
            if server.is_ready:
                return server
            if not await server.open(self._patience_s()):
                return None
            self._num_failures, self._was_served = 0, True
            self._events.emit("data.served", validation=server.num_validation_batches)
            return server

    def _patience_s(self) -> float:
        if self._own is None:
            return WELCOME_S
        return 0.0 if self._own.is_open else WELCOME_OR_OWN_S

    def _say_lost(self, reason: str) -> None:
        self._events.emit("data.server_lost", degraded=True, reason=reason)

    def _say_left(self, reason: str) -> None:
        self._events.emit("data.server_left", reason=reason)

    def _note_failure(self, reason: str) -> None:
        """Tell the first of failures in a row; the others are the same again."""
        self._num_failures += 1
        if self._num_failures == 1:
            then = "reading here" if self._own is not None else "waiting for it"
            is_worse = self._was_served or self._own is None
            self._events.emit("data.unserved", degraded=is_worse, reason=reason, then=then)


def _owned(batch: Batch, ring: Ring) -> Batch:
    """Return a batch of which nothing lies in the ring any more."""
    inputs, targets = (tuple(map(ring.own, tensors)) for tensors in (batch.inputs, batch.targets))
    return Batch(inputs, targets, batch.num_samples)
