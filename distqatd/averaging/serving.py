"""The donor's side of a state transfer: immutable states, hashed when first asked for.

Serving never waits for training or a round: what is served cannot change. Methods, all with the
name of the state as `to`:

    state.manifest   `parts` -> the manifest
    state.chunk      `state` (its digest), `chunk` (its number) -> the bytes, or `retry_after`
    state.done       the joiner wants no more; its upload slot is free
"""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from distqatd.averaging.manifest import (
    ALL,
    COMMITTED,
    DIGEST_BYTES,
    Chunk,
    Manifest,
    StateBytes,
    bytes_of,
    bytes_tensor,
    chunks_of,
    make_manifest,
)
from distqatd.averaging.slots import Joiner, UploadSlots
from distqatd.base.errors import CheckpointError, ExpertNotFound, Overloaded, RemoteProtocolError
from distqatd.base.ids import PeerId
from distqatd.net.rpc import Caller, Rpc
from distqatd.wire.fields import need
from distqatd.wire.payload import Message

T = TypeVar("T")

MANIFEST = "state.manifest"
CHUNK = "state.chunk"
DONE = "state.done"

NUM_SLOTS = 4
"""Joiners that one donor serves at once."""

MAX_STATES_HELD = 4
"""States held of one source: the newest, with and without inner state, and older ones in use."""

HOLD_S = 120.0
"""A state nobody has asked for in this time is let go."""

IN_USE_S = 30.0
"""A state that is being fetched is not let go for a newer one until its reader was silent for so
long, or said that it is done."""


class Run(Protocol):
    """Where work that takes milliseconds (a chunk's sha256) runs."""

    async def __call__(self, work: Callable[[], T]) -> T:
        """Return `work()`."""
        ...


async def run_here(work: Callable[[], T]) -> T:
    """Run `work` on the loop, and let others have a turn: 4 MiB of sha256 take about 3 ms."""
    await asyncio.sleep(0)
    return work()


Source = Callable[[str], StateBytes]
"""Returns the newest state with these `parts` (COMMITTED or ALL), or raises CheckpointError."""


@dataclass(slots=True)
class _Held:
    """A state that is being served.

    Attributes:
        used_at: when its manifest or a chunk of it was last asked for.
        readers: who fetches its chunks, and when each asked last. Who has only seen the manifest
            is none: most then fetch another donor's state, or have what they need.
    """

    state: StateBytes
    manifest: Manifest
    state_digest: str
    chunks: tuple[Chunk, ...]
    used_at: float
    readers: dict[Joiner, float] = field(default_factory=dict)

    def is_in_use(self, now: float) -> bool:
        """Return whether somebody fetches it."""
        return any(now - asked_at < IN_USE_S for asked_at in self.readers.values())


@dataclass(slots=True)
class _Served:
    """A source, and what is held of it; `lock` keeps two joiners from hashing the same state."""

    source: Source
    run: Run
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    held: list[_Held] = field(default_factory=list)
    # By tensor: what it was made of, and the digests of its first chunks.
    hashed: dict[str, tuple[object, bytearray]] = field(default_factory=dict)
    timer: asyncio.TimerHandle | None = None


class StateServer:
    """Serves states of one daemon by name. One per daemon: it answers the `state.` methods."""

    def __init__(self, rpc: Rpc, *, num_slots: int = NUM_SLOTS) -> None:
        """Register the methods."""
        self._served: dict[str, _Served] = {}
        self.slots = UploadSlots(num_slots)
        rpc.serve(MANIFEST, self._on_manifest)
        rpc.serve(CHUNK, self._on_chunk)
        rpc.serve(DONE, self._on_done)
        rpc.on_lost(lambda peer_id, _: self._forget(peer_id))

    def offer(self, name: str, source: Source, run: Run = run_here) -> None:
        """Serve a state under a name; replaces what was served under it.

        Args:
            name: an expert's uid, or any text of at most 64 characters.
            source: called for every joiner; the same `origin` means the same state.
            run: where its digests are computed, chunk by chunk.
        """
        self.withdraw(name)
        self._served[name] = _Served(source, run)

    def withdraw(self, name: str) -> None:
        """Serve it no more; joiners that are fetching it go on with other donors."""
        served = self._served.pop(name, None)
        if served is not None and served.timer is not None:
            served.timer.cancel()

    def num_held(self, name: str) -> int:
        """Return how many states are held for joiners."""
        return len(self._served[name].held)

    def _find(self, message: Message) -> _Served:
        name = need(message.body, "to", str)
        if name not in self._served:
            raise ExpertNotFound(f"no expert {name[:64]} gives state on this peer")
        return self._served[name]

    async def _on_manifest(self, _: Caller, message: Message) -> Message:
        served = self._find(message)
        parts = need(message.body, "parts", str)
        if parts not in (COMMITTED, ALL):
            raise RemoteProtocolError(f"a state has no parts {parts[:20]!r}")
        if served.timer is None:
            _schedule_release(served)
        async with served.lock:
            held = await self._hold(served, served.source(parts))
        held.used_at = _now()
        return held.manifest.to_message()

    async def _hold(self, served: _Served, state: StateBytes) -> _Held:
        for held in served.held:
            if held.state.origin is state.origin and held.state.specs == state.specs:
                return held
        _make_room(served)
        digests = [await _hash(served, state, number) for number in range(len(state.specs))]
        manifest = make_manifest(state, b"".join(digests))
        held = _Held(state, manifest, manifest.state_digest, manifest.chunks, _now())
        served.held.append(held)
        return held

    async def _on_chunk(self, caller: Caller, message: Message) -> Message:
        served = self._find(message)
        wanted, index = need(message.body, "state", str), need(message.body, "chunk", int)
        held = next((h for h in served.held if h.state_digest == wanted), None)
        if held is None:
            raise CheckpointError(f"state {wanted[:12]} is not held any more")
        if not 0 <= index < len(held.chunks):
            raise RemoteProtocolError(f"chunk {index} of {len(held.chunks)}")
        joiner = Joiner(caller.peer_id, message.body["to"])
        held.used_at = held.readers[joiner] = _now()
        slot = self.slots.ask(joiner, _now())
        if slot.value:
            return Message({"retry_after": slot.value, "reason": slot.reason})
        return Message({}, (bytes_tensor("chunk", bytes_of(held.state.data, held.chunks[index])),))

    async def _on_done(self, caller: Caller, message: Message) -> Message:
        served = self._find(message)
        joiner = Joiner(caller.peer_id, message.body["to"])
        self.slots.free(joiner)
        for held in served.held:
            held.readers.pop(joiner, None)
        return Message({})

    def _forget(self, peer_id: PeerId) -> None:
        """Take back all that a peer that is gone used."""
        self.slots.forget(peer_id)
        for held in (each for served in self._served.values() for each in served.held):
            for joiner in [one for one in held.readers if one.peer_id == peer_id]:
                del held.readers[joiner]


def _now() -> float:
    return asyncio.get_running_loop().time()


def _make_room(served: _Served) -> None:
    """Let go of the state that was not asked for longest and that nobody fetches.

    Raises:
        Overloaded: all that may be held are being fetched.
    """
    if len(served.held) < MAX_STATES_HELD:
        return
    unused = [held for held in served.held if not held.is_in_use(_now())]
    if not unused:
        raise Overloaded(f"{len(served.held)} older states are being fetched; ask again later")
    served.held.remove(min(unused, key=lambda held: held.used_at))


async def _hash(served: _Served, state: StateBytes, number: int) -> bytes:
    """Return the digests of one tensor; goes on where a joiner that gave up had it stop."""
    spec, data = state.specs[number], state.data[number]
    origin, digests = served.hashed.get(spec.name, (None, bytearray()))
    if origin is not state.origin:
        digests = bytearray()
        served.hashed[spec.name] = (state.origin, digests)
    for chunk in chunks_of((spec,))[len(digests) // DIGEST_BYTES :]:
        # One piece of work per chunk, so that training is never held up for long.
        digests += await served.run(sha256_of(data[chunk.start : chunk.stop]))
    return bytes(digests)


def sha256_of(data: memoryview) -> Callable[[], bytes]:
    """Return work that computes the sha256 of `data`."""
    return lambda: hashlib.sha256(data).digest()


def _schedule_release(served: _Served) -> None:
    served.timer = asyncio.get_running_loop().call_later(HOLD_S, _release, served)


def _release(served: _Served) -> None:
    """Let go of what was not asked for lately: a state is two times the model, or more."""
    served.held = [held for held in served.held if _now() - held.used_at < HOLD_S]
    served.timer = None
    if served.held or served.lock.locked():
        _schedule_release(served)
    else:
        served.hashed.clear()
