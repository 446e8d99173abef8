"""The tensors of one round: every slice goes to its owner and comes back as the mean.

A chunk makes one round trip: a member sends its values of the chunk to the owner, and the answer
is the chunk's mean, once all have sent. The owner keeps what arrives until the chunk is complete
and only then adds, in the order of the plan, so that timing cannot change a bit. It encodes the
mean once, sends these bytes to everybody and decodes them itself: all members hold the same.

A member with weight 0 sends no values, only asks; what it may hold (an infinity, an older model)
cannot touch the mean.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from distqatd.averaging.memory import ChunkMemory, empty_vector
from distqatd.averaging.messages import CHUNK
from distqatd.averaging.packing import Packing, destination
from distqatd.averaging.plan import Plan
from distqatd.averaging.progress import Progress, progress_of
from distqatd.averaging.reduce import Reducer, ReduceTable
from distqatd.averaging.slicing import CHUNKS_IN_FLIGHT
from distqatd.averaging.waits import until
from distqatd.base.errors import (
    DistqatError,
    NetworkError,
    NonFinite,
    RemoteProtocolError,
    RoundAborted,
)
from distqatd.base.ids import ExpertUid
from distqatd.compute.executor import Executor
from distqatd.compute.payload import torch_sink
from distqatd.net.rpc import Rpc
from distqatd.wire.fields import need
from distqatd.wire.payload import Message, Sink, TensorSpec, WireTensor


@dataclass(frozen=True, slots=True)
class Fault:
    """Why the exchange could not be completed, and whose fault it seems to be."""

    blamed: tuple[ExpertUid, ...]
    reason: str


class Butterfly:
    """One member's part in the exchange of one round.

    `run` sends our values and collects the means; `answer` serves the others, also while `run`
    has not begun, or after it has ended, until the round is over.

    Attributes:
        mean: the result, float32, CPU, (num_elements,).
        bytes_sent: tensor bytes sent so far.
        rest: what rounding took from our values on their way, float32, (num_coded,); None where
            they are not rounded. To be added to the next contribution if the round commits.
    """

    def __init__(  # noqa: PLR0913  built in one place, `begin`
        self,
        rpc: Rpc,
        executor: Executor,
        packing: Packing,
        plan: Plan,
        uid: ExpertUid,
        values: Tensor,
        memory: ChunkMemory | None = None,
        mean: Tensor | None = None,
        *,
        error_feedback: bool = False,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            rpc: how peers are called.
            executor: where tensors are worked on.
            packing: how values travel.
            plan: the closed round.
            uid: which member we are.
            values: our pseudo-gradient, float32, CPU, (num_elements,); not modified.
            memory: what requests were received into, to be used again; None keeps nothing.
            mean: where the mean goes, float32, CPU, (num_elements,); None for fresh memory.
            error_feedback: compute `rest` if values are rounded on their way.

        Raises:
            RemoteProtocolError: we are not in the plan, or it is for another number of elements.
        """
        if values.shape != (plan.num_elements,):
            raise RemoteProtocolError(
                f"a plan for {plan.num_elements} elements, we have {values.numel()}"
            )
        self.mean = empty_vector(plan.num_elements) if mean is None else mean
        self.bytes_sent = 0
        self.rest: Tensor | None = None
        self._named_by_owners: set[int] = set()
        self._rpc = rpc
        self._executor = executor
        self._plan = plan
        self._me = plan.index_of(uid)
        self._values = values.detach()
        self._table = ReduceTable(plan, self._me)
        if error_feedback and packing.is_lossy:
            self._expect_rest()
        self._reducer = Reducer(plan, packing, self.mean)
        self._lent: dict[int, list[memoryview]] = {}
        self._memory = memory or ChunkMemory(0)
        loop = asyncio.get_running_loop()
        self._encoded: list[asyncio.Future[WireTensor]] = [
            loop.create_future() for _ in self._table.chunks
        ]
        self._complete: asyncio.Queue[int] = asyncio.Queue(maxsize=max(1, len(self._encoded)))
        self._fault: asyncio.Future[Fault] = loop.create_future()
        self._owed = {
            m.uid: len(plan.chunks_of(i)) for i, m in enumerate(plan.members) if i != self._me
        }
        self._num_chunks = dict(self._owed)
        self._add_own()

    def fail(self, uid: ExpertUid, reason: str) -> None:
        """Give up because of a member: its link is gone. No effect once all means are here."""
        self._blame([uid], reason)

    def _blame(self, uids: Sequence[ExpertUid], reason: str) -> None:
        if not self._fault.done():
            self._fault.set_result(Fault(tuple(uids), reason))

    @property
    def progress(self) -> Progress:
        """Return how much of the mean is here, and whom it waits for."""
        done = {uid: self._num_chunks[uid] - owed for uid, owed in self._owed.items()}
        done[self._plan.members[self._me].uid] = sum(each.done() for each in self._encoded)
        return progress_of(self._plan, done, self._table.late())

    @property
    def dropped(self) -> tuple[ExpertUid, ...]:
        """Return whose contributions were left out, wholly or in part: they were not finite."""
        indexes = self._named_by_owners | self._reducer.dropped | self._reducer.shares.dropped
        return tuple(self._plan.members[index].uid for index in sorted(indexes))

    @property
    def norms(self) -> tuple[float, ...]:
        """Return the lengths of the contributions that count, where they were measured."""
        return tuple(self._reducer.shares.norms.values())

    def close(self, reason: str) -> None:
        """End the round here: whoever still waits for a mean is told that there is none."""
        for future in self._encoded:
            if not future.done():
                future.set_exception(RoundAborted(reason))
                future.exception()  # marks it as seen: often nobody waits

    async def run(self, timeout_s: float) -> Fault | None:
        """Exchange all chunks; afterwards `mean` is complete, unless a fault is returned."""
        try:
            async with asyncio.timeout(timeout_s):
                await until(self._exchange(timeout_s), self._fault)
        except TimeoutError:
            return self._overdue(timeout_s)
        return self._fault.result() if self._fault.done() else None

    async def answer(self, member: int, body: Mapping[str, object], message: Message) -> Message:
        """Serve `averaging.chunk`: keep the values, answer with the mean when it is there.

        Raises:
            RemoteProtocolError: the request does not fit the plan.
            RoundAborted: the round ended before the mean was there.
        """
        chunk = need(body, "chunk", int)
        self._table.check(member, chunk, has_values=bool(message.tensors))
        if message.tensors:
            await self._receive(member, chunk, message.tensors[0])
        return await self._mean_of(chunk)

    async def _mean_of(self, chunk: int) -> Message:
        encoded = await asyncio.shield(self._encoded[chunk])
        self.bytes_sent += encoded.spec.nbytes
        return Message({"dropped": sorted(self._reducer.dropped)}, (encoded,))

    async def _receive(self, member: int, chunk: int, tensor: WireTensor) -> None:
        """Keep a member's values of a chunk, and what they came in for the next ones."""
        start, stop = self._table.chunks[chunk]
        values = await self._decoded(tensor, start, stop)
        if not self._table.has(member, chunk):
            self._keep(member, chunk, values)
            # Calls within a daemon hand over the caller's own memory.
            if self._plan.members[member].peer_id != self._rpc.peer_id:
                self._lent.setdefault(chunk, []).append(tensor.data)

    def _overdue(self, timeout_s: float) -> Fault:
        # Contributions that we miss ourselves are first-hand; an owner that does not answer may
        # only be waiting for the same member.
        blamed = self._table.missing() or tuple(uid for uid, n in self._owed.items() if n)
        return Fault(blamed, f"silent for {timeout_s:.1f} s while means were exchanged")

    def _add_own(self) -> None:
        if self._me not in self._table.contributors:
            return
        for chunk, (start, stop) in enumerate(self._table.chunks):
            self._keep(self._me, chunk, self._values[start:stop])

    def _keep(self, member: int, chunk: int, values: Tensor) -> None:
        if self._table.add(member, chunk, values):
            self._complete.put_nowait(chunk)

    async def _exchange(self, timeout_s: float) -> None:
        """Reduce our chunks and fetch the others'."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._reduce_all(), name="averaging.reduce")
            self._fetch_all(tasks, timeout_s)

    def _others(self) -> list[int]:
        """Return the other members, the one after us first: not all begin with the same owner."""
        num_members = len(self._plan.members)
        return [(self._me + step) % num_members for step in range(1, num_members)]

    def _fetch_all(self, tasks: asyncio.TaskGroup, timeout_s: float) -> None:
        for owner in self._others():
            chunks = iter(enumerate(self._plan.chunks_of(owner)))
            for _ in range(min(CHUNKS_IN_FLIGHT, len(self._plan.chunks_of(owner)))):
                work = self._fetch_some(owner, chunks, timeout_s)
                tasks.create_task(work, name=f"averaging.fetch.{owner}")

    async def _reduce_all(self) -> None:
        for _ in self._table.chunks:
            chunk = await self._complete.get()
            await self._reduce(chunk)

    async def _reduce(self, chunk: int) -> None:
        start, stop = self._table.chunks[chunk]
        contributions = self._table.take_chunk(chunk)
        try:
            encoded = await self._executor.run(
                lambda: self._reducer.reduce(start, stop, contributions)
            )
        except NonFinite as error:
            self._blame([self._plan.members[i].uid for i in sorted(contributions)], str(error))
            return
        for buffer in self._lent.pop(chunk, ()):
            self._memory.give_back(buffer)
        if not self._encoded[chunk].done():
            self._encoded[chunk].set_result(encoded)

    def _expect_rest(self) -> None:
        """Prepare `rest`: zeros for what we own, to be set for what we send.

        A member that sends nothing delivers nothing: all of it stays.
        """
        coded = self._values[: self._plan.num_coded]
        sends = self._me in self._table.contributors
        self.rest = torch.zeros_like(coded) if sends else coded.clone()

    async def _fetch_some(
        self, owner: int, chunks: Iterator[tuple[int, tuple[int, int]]], timeout_s: float
    ) -> None:
        """Fetch what is left of an owner's chunks, one after the other, until none is left."""
        with self._blaming(owner):
            for chunk, (start, stop) in chunks:
                await self._fetch(owner, chunk, start, stop, timeout_s)
                self._owed[self._plan.members[owner].uid] -= 1

    @contextmanager
    def _blaming(self, owner: int) -> Iterator[None]:
        """Have what goes wrong end the round, and say whose fault it seems to be."""
        uid = self._plan.members[owner].uid
        try:
            yield
        except NetworkError as error:
            self.fail(uid, str(error))
        except DistqatError as error:
            self.fail(uid, f"{uid} answered: {error}")

    async def _fetch(self, owner: int, chunk: int, start: int, stop: int, timeout_s: float) -> None:
        target = self.mean[start:stop]
        tensors = await self._values_to_fetch_with(start, stop)

        def sink(spec: TensorSpec) -> memoryview:
            return destination(spec, target)

        answer = await self._ask(owner, self._fetch_body(chunk), tensors, timeout_s, sink)
        self._note_dropped(answer)
        if len(answer.tensors) != 1:
            raise RemoteProtocolError(f"{len(answer.tensors)} tensors instead of a mean")
        await self._store(answer.tensors[0], start, stop)

    def _fetch_body(self, chunk: int) -> dict[str, object]:
        return {"chunk": chunk}

    async def _values_to_fetch_with(self, start: int, stop: int) -> tuple[WireTensor, ...]:
        return await self._encoded_values(start, stop)

    async def _ask(
        self,
        owner: int,
        body: Mapping[str, object],
        tensors: tuple[WireTensor, ...],
        timeout_s: float,
        sink: Sink = torch_sink,
    ) -> Message:
        member = self._plan.members[owner]
        self.bytes_sent += sum(tensor.spec.nbytes for tensor in tensors)
        here = self._plan.members[self._me].uid
        head = {"to": member.uid, "from": here, "round": self._plan.round_id}
        message = Message({**head, **body}, tensors)
        return await self._rpc.call(member.peer_id, CHUNK, message, timeout_s=timeout_s, sink=sink)

    def _note_dropped(self, answer: Message) -> None:
        named = need(answer.body, "dropped", list)
        known = range(len(self._plan.members))
        if not all(type(index) is int and index in known for index in named):
            raise RemoteProtocolError("an owner names members that there are not")
        self._named_by_owners |= set(named)

    async def _encoded_values(self, start: int, stop: int) -> tuple[WireTensor, ...]:
        if self._me not in self._table.contributors:
            return ()
        values, packing = self._values[start:stop], self._reducer.packing_at(start)
        if packing.is_free:
            return (packing.pack("values", values),)
        rest = self.rest[start:stop] if self.rest is not None and packing.is_lossy else None
        return (await self._executor.run(lambda: packing.pack("values", values, rest)),)

    async def _decoded(self, tensor: WireTensor, start: int, stop: int) -> Tensor:
        packing = self._reducer.packing_at(start)
        if packing.is_free:
            return packing.unpack(tensor, stop - start)
        return await self._executor.run(lambda: packing.unpack(tensor, stop - start))

    async def _store(self, tensor: WireTensor, start: int, stop: int) -> None:
        values, target = await self._decoded(tensor, start, stop), self.mean[start:stop]
        if values.data_ptr() != target.data_ptr():  # else it was received in place
            await self._executor.run(lambda: target.copy_(values))
