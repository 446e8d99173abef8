"""A tiny Rpc network in memory for unit tests: N peers, no sockets, no virtual time needed.

What travels is treated as on the wire (bodies are encoded, descriptions checked, tensors copied
into the receiver's sink, size limits and error codes applied), so that a test which passes here
does not fail there for such a reason. `tests/unit/net/test_rpc_contract.py` runs the same cases
against this and against the real pool.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from distqatd.base.errors import (
    ConnectionClosed,
    DialError,
    DistqatError,
    LocalProtocolError,
    NotServed,
    PeerTimeout,
    error_for_code,
)
from distqatd.base.ids import PeerId
from distqatd.net.address import Address
from distqatd.net.rpc import Caller, Handler, OnLost, Sink
from distqatd.wire.payload import Message, WireTensor, check_message, pack_body, unpack_body


@dataclass(frozen=True, slots=True)
class _Served:
    handler: Handler
    max_bytes: int
    sink: Sink | None


class MemoryRpc:
    """One peer's end; implements `distqatd.net.rpc.Rpc`."""

    def __init__(self, network: "MemoryNetwork", peer_id: PeerId, roles: tuple[str, ...]) -> None:
        self.peer_id = peer_id
        self.caller = Caller(peer_id, boot_epoch=1, roles=roles)
        self.served: dict[str, _Served] = {}
        self.learned: dict[PeerId, tuple[Address, ...]] = {}
        self._network = network
        self._on_lost: list[OnLost] = []

    def serve(
        self, method: str, handler: Handler, *, max_bytes: int = 1 << 20, sink: Sink | None = None
    ) -> None:
        self.served[method] = _Served(handler, max_bytes, sink)

    def learn(self, peer: PeerId, addresses: Sequence[Address]) -> None:
        self.learned[peer] = tuple(addresses)

    def on_lost(self, callback: OnLost) -> None:
        self._on_lost.append(callback)

    def forget(self) -> None:
        """Start again as another life of the daemon: nothing is served until somebody says so."""
        self.served.clear()
        self._on_lost.clear()

    def lose(self, peer: PeerId, reason: str) -> None:
        for callback in self._on_lost:
            callback(peer, reason)

    async def call(
        self,
        peer: PeerId,
        method: str,
        message: Message,
        *,
        timeout_s: float,
        sink: Sink | None = None,
    ) -> Message:
        try:
            async with asyncio.timeout(timeout_s):
                if peer == self.peer_id:
                    return await self._local(method, message)
                return await self._network.carry(self, peer, method, message, sink)
        except TimeoutError as error:
            raise PeerTimeout(f"{peer} did not answer {method} in {timeout_s} s") from error

    async def _local(self, method: str, message: Message) -> Message:
        served = self.served.get(method)
        if served is None:
            raise NotServed(f"{method} is not served here")
        return await served.handler(self.caller, message)


class MemoryNetwork:
    """All peers of a test. `calls` lists (caller, callee, method) in the order of arrival."""

    def __init__(self) -> None:
        self.calls: list[tuple[PeerId, PeerId, str]] = []
        self.on_call: Callable[[PeerId, PeerId, str], None] = lambda *_: None
        self._peers: dict[PeerId, MemoryRpc] = {}
        self._cut: set[PeerId] = set()
        self._callers: dict[PeerId, set[PeerId]] = {}
        self._delays: dict[tuple[PeerId | None, str], float] = {}
        self._links: dict[PeerId, dict[asyncio.Future[None], PeerId]] = {}

    def peer(self, peer_id: str, roles: tuple[str, ...] = ("expert",)) -> MemoryRpc:
        """Return the end of `peer_id`, made when first asked for."""
        name = PeerId(peer_id)
        if name not in self._peers:
            self._peers[name] = MemoryRpc(self, name, roles)
        return self._peers[name]

    def cut(self, peer_id: str, reason: str = "reset: cut by the test") -> None:
        """Cut a peer off: its calls and those to it fail now and from now on; others are told."""
        name = PeerId(peer_id)
        self._cut.add(name)
        for broken in list(self._links.get(name, {})):
            if not broken.done():
                broken.set_exception(ConnectionClosed(f"the link to {name} broke: {reason}"))
        for other in [p for p in self._peers.values() if p.peer_id != name]:
            other.lose(name, reason)
            self._peers[name].lose(other.peer_id, reason)

    def heal(self, peer_id: str) -> None:
        """Let a peer that was cut off be reached again."""
        self._cut.discard(PeerId(peer_id))

    def only_calls(self, peer_id: str) -> None:
        """Refuse connections to a peer: only who it has called can call it, over that link."""
        self._callers[PeerId(peer_id)] = set()

    def delay(self, method: str, delay_s: float, *, to: str | None = None) -> None:
        """Hold every call of `method` (to one peer, or to all) for `delay_s` loop seconds."""
        self._delays[None if to is None else PeerId(to), method] = delay_s

    async def carry(
        self, source: MemoryRpc, peer: PeerId, method: str, message: Message, sink: Sink | None
    ) -> Message:
        """Take a request to `peer` and its answer back."""
        check_message(message)
        if peer not in self._peers or {peer, source.peer_id} & self._cut:
            raise DialError(f"{peer} cannot be reached from {source.peer_id}")
        if source.peer_id not in self._callers.get(peer, {source.peer_id}):
            raise DialError(f"{peer} accepts no connections")
        self._callers.get(source.peer_id, set()).add(peer)
        target = self._peers[peer]
        broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ends = [self._links.setdefault(end, {}) for end in (peer, source.peer_id)]
        for end in ends:
            end[broken] = peer
        try:
            return await self._race(self._round_trip(source, target, method, message, sink), broken)
        finally:
            for end in ends:
                end.pop(broken, None)
            broken.cancel()

    async def _race(self, work, broken: asyncio.Future[None]) -> Message:
        task = asyncio.get_running_loop().create_task(work)
        try:
            await asyncio.wait([task, broken], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                broken.result()
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # an answer that nobody waits for any more

    async def _round_trip(
        self,
        source: MemoryRpc,
        target: MemoryRpc,
        method: str,
        message: Message,
        sink: Sink | None,
    ) -> Message:
        delay_s = self._delays.get((target.peer_id, method), self._delays.get((None, method), 0.0))
        await asyncio.sleep(delay_s)
        self.calls.append((source.peer_id, target.peer_id, method))
        self.on_call(source.peer_id, target.peer_id, method)
        try:
            served = target.served.get(method)
            if served is None:
                raise NotServed(f"{method} is not served by {target.peer_id}")
            size = len(pack_body(message.body)) + message.tensor_bytes
            if size > served.max_bytes:
                raise LocalProtocolError(
                    f"{method} takes at most {served.max_bytes} bytes, not {size}"
                )
            response = await served.handler(source.caller, _received(message, served.sink))
            check_message(response)
        except DistqatError as error:
            raise error_for_code(error.wire_code)(str(error)) from None
        return _received(response, sink)


def _received(message: Message, sink: Sink | None) -> Message:
    """Return the message as its receiver sees it: new body, tensors copied into the sink."""
    tensors = tuple(_copied(tensor, sink) for tensor in message.tensors)
    return replace(message, body=unpack_body(pack_body(message.body)), tensors=tensors)


def _copied(tensor: WireTensor, sink: Sink | None) -> WireTensor:
    target = memoryview(bytearray(tensor.spec.nbytes)) if sink is None else sink(tensor.spec)
    target = target.cast("B")
    target[:] = tensor.data.cast("B")
    return WireTensor(tensor.spec, target)
