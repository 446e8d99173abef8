"""One transfer on a loop: workers per donor, upload slots obeyed, progress told."""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from distqatd.averaging.manifest import Chunk, Manifest, bytes_of
from distqatd.averaging.offers import Donor
from distqatd.averaging.serving import CHUNK, DONE, Run
from distqatd.averaging.slots import MAX_RETRY_S
from distqatd.averaging.stripes import ChunkBoard, Flight, Pace
from distqatd.averaging.waits import wait_until
from distqatd.base.errors import CheckpointError, DistqatError, RemoteProtocolError
from distqatd.base.events import EventLog
from distqatd.base.ids import PeerId
from distqatd.net.rpc import Rpc
from distqatd.wire.fields import need
from distqatd.wire.payload import Message, TensorSpec

WORKERS_PER_DONOR = 2
CHUNK_TIMEOUT_S = 120.0
"""Also over a link of 5 Mbit/s eight chunks at once arrive in this time."""

IDLE_S = 0.25
"""A worker with nothing to do looks this often whether a chunk has become overdue."""

MIN_RETRY_S = 0.05
DONE_TIMEOUT_S = 5.0
PROGRESS_S = 5.0
"""A transfer that takes longer tells how far it is, this often."""


@dataclass(slots=True)
class _Worked:
    """A donor during one transfer; `busy_until` is when it wants to be asked again."""

    uid: str
    peer_id: PeerId
    pace: Pace = field(default_factory=Pace)
    num_flying: int = 0
    busy_until: float = 0.0
    has_slot: bool = False


class Striping:
    """Fills the chunks that a board says are missing."""

    def __init__(self, rpc: Rpc, run: Run, events: EventLog, board: ChunkBoard) -> None:
        self._rpc = rpc
        self._run = run
        self._events = events
        self._board = board
        self._donors: dict[str, _Worked] = {}
        self._dropped: dict[str, str] = {}
        self._scopes: dict[Flight, asyncio.Timeout] = {}
        self._changed = asyncio.Event()
        self._last_chunk_at = 0.0

    async def run(
        self,
        donors: Sequence[Donor],
        manifest: Manifest,
        data: Sequence[memoryview],
        stall_s: float,
    ) -> None:
        """Fetch the missing chunks into `data`.

        Raises:
            CheckpointError: no donor is left, or no chunk came for `stall_s` seconds.
        """
        job = _Job(manifest, data)
        self._donors = {uid: _Worked(uid, peer_id) for uid, peer_id in donors}
        self._board.reopen()
        stalled = ""
        try:
            async with asyncio.TaskGroup() as tasks:
                watch = tasks.create_task(self._watch(job, stall_s), name="state.watch")
                await self._work_all(job)
                watch.cancel()
        except* CheckpointError as group:
            stalled = str(group.exceptions[0])
        await self._release_slots()
        if self._board.num_left:
            reasons = "; ".join(f"{uid}: {reason}" for uid, reason in self._dropped.items())
            missing = f"{self._board.num_left} of {self._board.total} chunks missing"
            raise CheckpointError(f"{missing}: {stalled or reasons}")

    async def _work_all(self, job: "_Job") -> None:
        async with asyncio.TaskGroup() as tasks:
            for donor in self._donors.values():
                for number in range(WORKERS_PER_DONOR):
                    name = f"state.fetch.{donor.uid}.{number}"
                    tasks.create_task(self._work(job, donor), name=name)

    async def _work(self, job: "_Job", donor: _Worked) -> None:
        """Fetch chunks from one donor until none is left or the donor is dropped."""
        while self._board.num_left and donor.uid not in self._dropped:
            flight = self._next(donor)
            if flight is None:
                # All are on their way; one may come back if its donor is dropped, or be overdue.
                await wait_until(self._changed, max(_now() + IDLE_S, donor.busy_until))
                continue
            donor.num_flying += 1
            try:
                await self._fly(job, donor, flight)
            except DistqatError as error:
                self._drop(donor.uid, str(error))
            finally:
                donor.num_flying -= 1
                self._board.fail(flight)
                self._stir()

    def _next(self, donor: _Worked) -> Flight | None:
        """Return what to fetch next from a donor, if anything."""
        now = _now()
        if now < donor.busy_until or donor.num_flying >= donor.pace.window:
            return None
        flight = self._board.start(donor.uid, donor.pace, now)
        if flight is not None or not donor.pace.chunk_s:
            return flight
        stolen = self._board.steal(donor.uid, donor.pace, now, self._donors.keys())
        if stolen is None:
            return None
        theirs, ours, reason = stolen
        self._events.emit(
            "state.chunk_taken_over",
            chunk=theirs.index,
            slow=theirs.donor,
            donor=donor.uid,
            reason=reason,
        )
        self._donors[theirs.donor].pace.add(now - theirs.began)
        scope = self._scopes.get(theirs)
        if scope is not None:
            scope.reschedule(now)
        return ours

    async def _fly(self, job: "_Job", donor: _Worked, flight: Flight) -> None:
        """Fetch one chunk; returns without it if another donor took over or ours is busy."""
        began = _now()
        try:
            async with asyncio.timeout(None) as scope:
                self._scopes[flight] = scope
                answer = await self._ask(job, donor, flight.index)
        except TimeoutError:
            return
        finally:
            del self._scopes[flight]
        if answer is None:
            return
        donor.pace.add(max(_now() - began, 1e-6))
        if not await self._run(job.store(flight.index, answer)):
            raise CheckpointError(f"chunk {flight.index} from {donor.uid} is corrupt: bad sha256")
        if self._board.land(flight):
            self._last_chunk_at = _now()

    async def _ask(self, job: "_Job", donor: _Worked, index: int) -> memoryview | None:
        size = job.target(index).nbytes
        message = Message({"to": donor.uid, "state": job.digest, "chunk": index})
        answer = await self._rpc.call(
            donor.peer_id,
            CHUNK,
            message,
            timeout_s=CHUNK_TIMEOUT_S,
            sink=lambda spec: _receive(spec, size),
        )
        if "retry_after" in answer.body:
            self._wait_for_slot(donor, answer)
            return None
        donor.has_slot = True
        if len(answer.tensors) != 1 or answer.tensors[0].data.nbytes != size:
            raise RemoteProtocolError(f"{donor.uid} sent no chunk {index} of {size} bytes")
        return answer.tensors[0].data

    def _wait_for_slot(self, donor: _Worked, answer: Message) -> None:
        retry_s = need(answer.body, "retry_after", float)
        # Not a number, negative or a year: whatever it says, we come back within bounds.
        retry_s = min(MAX_RETRY_S, retry_s) if retry_s > MIN_RETRY_S else MIN_RETRY_S
        if not donor.busy_until:
            reason = need(answer.body, "reason", str)[:200]
            self._events.emit("state.donor_busy", donor=donor.uid, reason=reason)
        donor.busy_until = _now() + retry_s

    def _drop(self, uid: str, reason: str) -> None:
        if uid not in self._dropped:
            self._dropped[uid] = reason
            self._events.emit("state.donor_dropped", degraded=True, donor=uid, reason=reason)

    def _stir(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _watch(self, job: "_Job", stall_s: float) -> None:
        """Tell how far a long transfer is, and end one that does not move."""
        began = self._last_chunk_at = _now()
        first_left = self._board.num_left
        while True:
            await asyncio.sleep(min(PROGRESS_S, stall_s / 4))
            if _now() - self._last_chunk_at > stall_s:
                raise CheckpointError(f"no new chunk of the state for {stall_s:g} s")
            left, total = self._board.num_left, self._board.total
            chunk_s = (_now() - began) / max(1, first_left - left)
            self._events.emit(
                "state.progress",
                chunks=total - left,
                of=total,
                mib=round(job.num_bytes / (1 << 20) * (total - left) / total, 1),
                seconds_left=round(left * chunk_s, 1),
                donors=len(self._donors) - len(self._dropped),
            )

    async def _release_slots(self) -> None:
        """Tell donors that we are done, so that others need not wait; best effort."""
        async with asyncio.TaskGroup() as tasks:
            for donor in self._donors.values():
                if donor.uid not in self._dropped and (donor.has_slot or donor.busy_until):
                    tasks.create_task(self._release(donor), name=f"state.done.{donor.uid}")

    async def _release(self, donor: _Worked) -> None:
        message = Message({"to": donor.uid})
        try:
            await self._rpc.call(donor.peer_id, DONE, message, timeout_s=DONE_TIMEOUT_S)
        except DistqatError:
            # It forgets us by itself: at once when the link is lost, later when it is only slow.
            return


class _Job:
    """The state that is fetched."""

    def __init__(self, manifest: Manifest, data: Sequence[memoryview]) -> None:
        self.digest = manifest.state_digest
        self.num_bytes = manifest.num_bytes
        self._manifest = manifest
        self._chunks: tuple[Chunk, ...] = manifest.chunks
        self._data = data

    def target(self, index: int) -> memoryview:
        return bytes_of(self._data, self._chunks[index])

    def store(self, index: int, received: memoryview) -> Callable[[], bool]:
        """Return work that checks a chunk and, if it is right, puts it in its place."""
        wanted, target = self._manifest.digest_of(index), self.target(index)

        def work() -> bool:
            if hashlib.sha256(received).digest() != wanted:
                return False
            target[:] = received
            return True

        return work


def _receive(spec: TensorSpec, size: int) -> memoryview:
    if spec.nbytes != size:
        raise RemoteProtocolError(f"a chunk of {spec.nbytes} bytes instead of {size}")
    return memoryview(bytearray(size))


def _now() -> float:
    return asyncio.get_running_loop().time()
