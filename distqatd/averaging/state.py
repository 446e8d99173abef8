"""State for late joiners: donors serve immutable snapshots, joiners fetch them from several.

A joiner asks all donors for a manifest, takes the newest state that most of them hold, and gets
its chunks from all of these at once, each checked by its digest. A donor that leaves, stalls or
sends a wrong chunk is dropped and named, and the others finish its work.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distqatd.averaging.manifest import Chunk, Manifest, chunks_of, make_manifest, specs_of
from distqatd.averaging.messages import take_uid
from distqatd.averaging.tools import now
from distqatd.base.errors import (
    CheckpointError,
    DistqatError,
    ExpertNotFound,
    RemoteProtocolError,
)
from distqatd.base.events import EventLog
from distqatd.base.ids import ExpertUid, PeerId
from distqatd.compute.executor import Executor
from distqatd.compute.payload import to_wire
from distqatd.compute.results import Snapshot
from distqatd.net.rpc import Caller, Rpc
from distqatd.optim.digest import digest
from distqatd.wire.fields import need
from distqatd.wire.payload import Message, TensorSpec, WireTensor

MANIFEST = "state.manifest"
CHUNK = "state.chunk"

CHUNKS_PER_DONOR = 2
"""Chunks asked of one donor at a time: one travels while the next is read."""

MAX_DONORS = 8
"""Donors used at most; with CHUNKS_PER_DONOR this bounds what is in flight to 64 MiB."""

MAX_STATES_HELD = 2
"""Snapshots kept for one expert: the newest, and the one before for those still fetching it."""

HOLD_S = 120.0
"""A snapshot nobody has asked for in this time is let go."""

MANIFEST_TIMEOUT_S = 15.0
CHUNK_TIMEOUT_S = 30.0
MAX_STATE_BYTES = 1 << 36


@dataclass(slots=True)
class _Held:
    """A snapshot that is being served."""

    snapshot: Snapshot
    manifest: Manifest
    chunks: tuple[Chunk, ...]
    data: tuple[memoryview, ...]
    used_at: float


@dataclass(slots=True)
class _Source:
    """An expert whose state is served; `lock` keeps two joiners from hashing the same state."""

    snapshot: Callable[[], Snapshot]
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    held: deque[_Held] = field(default_factory=lambda: deque(maxlen=MAX_STATES_HELD))
    timer: asyncio.TimerHandle | None = None


class Donors:
    """Serves the committed state of the experts here; also while they train or average."""

    def __init__(self, rpc: Rpc, executor: Executor) -> None:
        """Register the methods. Digests are computed on `executor`, when first asked for."""
        self._executor = executor
        self._sources: dict[ExpertUid, _Source] = {}
        rpc.serve(MANIFEST, self._on_manifest)
        rpc.serve(CHUNK, self._on_chunk)

    def attach(self, uid: ExpertUid, snapshot: Callable[[], Snapshot]) -> None:
        """Serve the state of an expert; `snapshot` returns the last committed one, immutable."""
        self.detach(uid)
        self._sources[uid] = _Source(snapshot)

    def detach(self, uid: ExpertUid) -> None:
        """Serve it no more; joiners that are fetching it go on with other donors."""
        source = self._sources.pop(uid, None)
        if source is not None and source.timer is not None:
            source.timer.cancel()

    def _source(self, message: Message) -> _Source:
        uid = take_uid(message.body, "to")
        if uid not in self._sources:
            raise ExpertNotFound(f"no expert {uid} gives state on this peer")
        return self._sources[uid]

    async def _on_manifest(self, _: Caller, message: Message) -> Message:
        source = self._source(message)
        async with source.lock:
            snapshot = source.snapshot()
            if not source.held or source.held[-1].snapshot is not snapshot:
                source.held.append(await self._hold(snapshot))
        newest = source.held[-1]
        newest.used_at = now()
        if source.timer is None:
            self._schedule_release(source)
        return newest.manifest.to_message()

    async def _hold(self, snapshot: Snapshot) -> _Held:
        wires = [to_wire(name, snapshot.tensors[name]) for name in sorted(snapshot.tensors)]
        data = tuple(wire.data for wire in wires)
        chunks = chunks_of(specs_of(snapshot.tensors))
        digests = bytearray()
        for chunk in chunks:
            # One piece of work per chunk, so that training is never held up for long.
            digests += await self._executor.run(_hash_work(_bytes_of(data, chunk)))
        manifest = make_manifest(snapshot, bytes(digests))
        return _Held(snapshot, manifest, chunks, data, now())

    async def _on_chunk(self, _: Caller, message: Message) -> Message:
        source = self._source(message)
        wanted, index = need(message.body, "state", str), need(message.body, "chunk", int)
        held = next((h for h in source.held if h.manifest.state_digest == wanted), None)
        if held is None:
            raise CheckpointError(f"state {wanted[:12]} is not held any more")
        if not 0 <= index < len(held.chunks):
            raise RemoteProtocolError(f"chunk {index} of {len(held.chunks)}")
        held.used_at = now()
        data = _bytes_of(held.data, held.chunks[index])
        spec = TensorSpec("chunk", "uint8", (data.nbytes,), data.nbytes)
        return Message({}, (WireTensor(spec, data),))

    def _schedule_release(self, source: _Source) -> None:
        loop = asyncio.get_running_loop()
        source.timer = loop.call_later(HOLD_S, self._release, source)

    def _release(self, source: _Source) -> None:
        """Let go of what was not asked for lately: a snapshot is two times the model."""
        fresh = [held for held in source.held if now() - held.used_at < HOLD_S]
        source.held.clear()
        source.held.extend(fresh)
        source.timer = None
        if fresh:
            self._schedule_release(source)


Donor = tuple[ExpertUid, PeerId]


async def fetch_state(
    rpc: Rpc,
    donors: Sequence[Donor],
    events: EventLog,
    executor: Executor,
    *,
    timeout_s: float = 600.0,
    max_bytes: int = MAX_STATE_BYTES,
) -> Snapshot:
    """Get the newest state that the donors hold, checked chunk by chunk and as a whole.

    Args:
        rpc: how donors are called.
        donors: serving experts of the stage; the first MAX_DONORS are used.
        events: told of every donor that is dropped, and why (`state.donor_dropped`).
        executor: where digests are computed.
        timeout_s: seconds for all of it.
        max_bytes: a larger state is refused before memory is taken.

    Raises:
        CheckpointError: no donor is left, or time is up, or the whole does not fit its digest.
    """
    try:
        async with asyncio.timeout(timeout_s):
            manifest, holders = await _choose(rpc, donors, events, max_bytes)
            fetch = _Fetch(rpc, executor, events, manifest, holders)
            await fetch.run()
    except TimeoutError as error:
        raise CheckpointError(f"the state was not here after {timeout_s:g} s") from error
    return await executor.run(fetch.snapshot)


async def _choose(
    rpc: Rpc, donors: Sequence[Donor], events: EventLog, max_bytes: int
) -> tuple[Manifest, list[Donor]]:
    """Return the newest state, of several the one that most donors hold, and who holds it."""
    offers: dict[str, tuple[Manifest, list[Donor]]] = {}
    refusals: list[str] = []

    async def ask(donor: Donor) -> None:
        uid, peer_id = donor
        message = Message({"to": uid})
        try:
            answer = await rpc.call(peer_id, MANIFEST, message, timeout_s=MANIFEST_TIMEOUT_S)
            manifest = Manifest.from_message(answer, max_bytes)
        except DistqatError as error:
            events.emit("state.donor_dropped", degraded=True, donor=uid, reason=str(error))
            refusals.append(f"{uid}: {error}")
        else:
            offers.setdefault(manifest.state_digest, (manifest, []))[1].append(donor)

    async with asyncio.TaskGroup() as tasks:
        for donor in donors[:MAX_DONORS]:
            tasks.create_task(ask(donor), name=f"state.manifest.{donor[0]}")
    if not offers:
        raise CheckpointError(f"no donor has state for us: {'; '.join(refusals) or 'none asked'}")
    return max(offers.values(), key=lambda o: (o[0].outer_step, len(o[1]), o[0].state_digest))


class _Fetch:
    """One transfer: which chunks are open, and which donors still count."""

    def __init__(
        self,
        rpc: Rpc,
        executor: Executor,
        events: EventLog,
        manifest: Manifest,
        donors: Sequence[Donor],
    ) -> None:
        self._rpc = rpc
        self._executor = executor
        self._events = events
        self._manifest = manifest
        self._donors = donors
        self._chunks = manifest.chunks
        self._digest = manifest.state_digest
        self._tensors = tuple(_empty(spec) for spec in manifest.specs)
        self._data = tuple(to_wire("state", tensor).data for tensor in self._tensors)
        self._open = deque(range(len(self._chunks)))
        self._num_left = len(self._chunks)
        self._dropped: dict[ExpertUid, str] = {}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Fetch all chunks.

        Raises:
            CheckpointError: no donor is left.
        """
        async with asyncio.TaskGroup() as tasks:
            for donor in self._donors:
                for _ in range(CHUNKS_PER_DONOR):
                    tasks.create_task(self._work(donor), name=f"state.fetch.{donor[0]}")
        if self._num_left:
            reasons = "; ".join(f"{uid}: {reason}" for uid, reason in self._dropped.items())
            total = len(self._chunks)
            raise CheckpointError(f"{self._num_left} of {total} chunks missing: {reasons}")

    def snapshot(self) -> Snapshot:
        """Return what was fetched; blocking, hashes the whole anchor once more.

        Raises:
            CheckpointError: the anchor does not have the digest that the donors say it has.
        """
        names = (spec.name for spec in self._manifest.specs)
        tensors = dict(zip(names, self._tensors, strict=True))
        found = digest(tensors["anchor"]) if "anchor" in tensors else ""
        if found != self._manifest.anchor_digest:
            who = ", ".join(uid for uid, _ in self._donors)
            wanted = self._manifest.anchor_digest
            raise CheckpointError(
                f"anchor of {who} is {found[:12]}, its manifest says {wanted[:12]}"
            )
        return Snapshot(
            self._manifest.outer_step,
            self._manifest.anchor_digest,
            self._manifest.layout_digest,
            tensors,
            dict(self._manifest.meta),
        )

    async def _work(self, donor: Donor) -> None:
        """Fetch open chunks from one donor until none is left or the donor is dropped."""
        uid, _ = donor
        while self._num_left and uid not in self._dropped:
            if not self._open:
                # All are on their way; one may come back if its donor is dropped.
                await self._changed.wait()
                continue
            index = self._open.popleft()
            try:
                await self._fetch(donor, index)
                self._num_left -= 1
            except DistqatError as error:
                self._open.appendleft(index)
                self._drop(uid, str(error))
            self._stir()

    def _stir(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _drop(self, uid: ExpertUid, reason: str) -> None:
        if uid not in self._dropped:
            self._dropped[uid] = reason
            self._events.emit("state.donor_dropped", degraded=True, donor=uid, reason=reason)

    async def _fetch(self, donor: Donor, index: int) -> None:
        uid, peer_id = donor
        target = _bytes_of(self._data, self._chunks[index])
        message = Message({"to": uid, "state": self._digest, "chunk": index})
        answer = await self._rpc.call(
            peer_id,
            CHUNK,
            message,
            timeout_s=CHUNK_TIMEOUT_S,
            sink=lambda spec: _into(spec, target),
        )
        if len(answer.tensors) != 1 or answer.tensors[0].data.nbytes != target.nbytes:
            raise CheckpointError(f"{uid} sent no chunk {index} of {target.nbytes} bytes")
        data = answer.tensors[0].data
        if await self._executor.run(_hash_work(data)) != self._manifest.digest_of(index):
            raise CheckpointError(f"chunk {index} from {uid} is corrupt: its sha256 is another")
        if data.obj is not target.obj:
            target[:] = data  # from an expert of our own daemon: nothing was received


def _hash_work(data: memoryview) -> Callable[[], bytes]:
    return lambda: hashlib.sha256(data).digest()


def _bytes_of(data: Sequence[memoryview], chunk: Chunk) -> memoryview:
    return data[chunk.tensor][chunk.start : chunk.stop]


def _into(spec: TensorSpec, target: memoryview) -> memoryview:
    """Receive a chunk straight into its place."""
    if spec.nbytes != target.nbytes:
        raise RemoteProtocolError(f"a chunk of {spec.nbytes} bytes instead of {target.nbytes}")
    return target


def _empty(spec: TensorSpec) -> Tensor:
    return torch.empty(spec.shape, dtype=getattr(torch, spec.dtype))
