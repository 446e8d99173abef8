"""The tensors of one round: every slice goes to its owner and comes back as the mean.

A chunk makes one round trip: a member sends its values of the chunk to the owner, and the answer
is the chunk's mean, once all have sent. The owner keeps what arrives until the chunk is complete
and only then adds, in the order of the plan, so that timing cannot change a bit. It encodes the
mean once, sends these bytes to everybody and decodes them itself: all members hold the same.

A member with weight 0 sends no values, only asks; what it may hold (an infinity, an older model)
cannot touch the mean.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from distqatd.averaging.messages import CHUNK
from distqatd.averaging.plan import Plan
from distqatd.averaging.waits import until
from distqatd.base.errors import (
    DistqatError,
    NetworkError,
    RemoteProtocolError,
    RoundAborted,
)
from distqatd.base.ids import ExpertUid
from distqatd.compute.executor import Executor
from distqatd.compute.payload import from_wire, to_wire, torch_sink
from distqatd.net.rpc import Rpc
from distqatd.optim.codecs import Codec
from distqatd.wire.fields import need
from distqatd.wire.payload import Message, TensorSpec, WireTensor

CHUNKS_IN_FLIGHT = 4
"""Chunks on the way to one owner: 4 MiB hide 80 ms at 400 Mbit/s, and bound the owner's memory."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why the exchange could not be completed, and whose fault it seems to be."""

    blamed: tuple[ExpertUid, ...]
    reason: str


@torch.no_grad()
def weighted_mean(
    contributions: Mapping[int, Tensor], weights: Mapping[int, float], num_elements: int
) -> Tensor:
    """Return the sum of weight x contribution, in ascending order of member index.

    Args:
        contributions: by member index; float32, (num_elements,); not modified.
        weights: share of each contributor; they sum to 1 over all of them.
        num_elements: length of the result.

    Every product and every sum is rounded to fp32 on its own: a fused multiply-add rounds once,
    and whether torch fuses depends on the processor and on the place in the vector.
    """
    mean = torch.zeros(num_elements)
    for index in sorted(contributions):
        mean.add_(contributions[index] * weights[index])
    return mean


class ReduceTable:
    """The owner's side without I/O: which contributions of which own chunk have arrived."""

    def __init__(self, plan: Plan, index: int) -> None:
        self.chunks = plan.chunks_of(index)
        self.contributors = frozenset(i for i, m in enumerate(plan.members) if m.samples)
        self._plan = plan
        self._arrived: list[dict[int, Tensor]] = [{} for _ in self.chunks]

    def check(self, member: int, chunk: int, *, has_values: bool) -> None:
        """Check a request before its values are looked at.

        Raises:
            RemoteProtocolError: no such chunk here, or values where none or some are expected.
        """
        if not 0 <= chunk < len(self.chunks):
            raise RemoteProtocolError(f"chunk {chunk} of {len(self.chunks)}")
        if has_values != (member in self.contributors):
            uid = self._plan.members[member].uid
            raise RemoteProtocolError(f"{uid} sent values: {has_values}, by its weight: not so")

    def add(self, member: int, chunk: int, values: Tensor) -> bool:
        """Keep a contribution (float32, 1-D); return whether it made the chunk complete.

        The first one of a member counts; it is kept by reference until `take_chunk`.

        Raises:
            RemoteProtocolError: wrong length or type.
        """
        start, stop = self.chunks[chunk]
        if values.shape != (stop - start,) or values.dtype != torch.float32:
            found = f"{values.dtype}{list(values.shape)}"
            raise RemoteProtocolError(f"chunk {chunk} has {stop - start} fp32 values, not {found}")
        arrived = self._arrived[chunk]
        if member in arrived:
            return False
        arrived[member] = values
        return len(arrived) == len(self.contributors)

    def take_chunk(self, chunk: int) -> dict[int, Tensor]:
        """Return a complete chunk's contributions and drop their values from the table."""
        arrived = self._arrived[chunk]
        # The keys stay: a contribution sent twice must not count as a new one.
        self._arrived[chunk] = {member: torch.empty(0) for member in arrived}
        return arrived

    def missing(self) -> tuple[ExpertUid, ...]:
        """Return the members that owe a contribution to any own chunk, in order."""
        owing = {i for arrived in self._arrived for i in self.contributors - arrived.keys()}
        return tuple(self._plan.members[i].uid for i in sorted(owing))


class Butterfly:
    """One member's part in the exchange of one round.

    `run` sends our values and collects the means; `answer` serves the others, also while `run`
    has not begun, or after it has ended, until the round is over.
    """

    def __init__(
        self, rpc: Rpc, executor: Executor, codec: Codec, plan: Plan, uid: ExpertUid, values: Tensor
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            rpc: how peers are called.
            executor: where tensors are worked on.
            codec: how values travel.
            plan: the closed round.
            uid: which member we are.
            values: our pseudo-gradient, float32, CPU, (num_elements,); not modified.

        Raises:
            RemoteProtocolError: we are not in the plan, or it is for another number of elements.
        """
        if values.shape != (plan.num_elements,):
            raise RemoteProtocolError(
                f"a plan for {plan.num_elements} elements, we have {values.numel()}"
            )
        self.mean = torch.empty(plan.num_elements)
        self.bytes_sent = 0
        self._rpc = rpc
        self._executor = executor
        self._codec = codec
        self._plan = plan
        self._me = plan.index_of(uid)
        self._values = values.detach()
        self._weights = {i: m.weight for i, m in enumerate(plan.members)}
        self._table = ReduceTable(plan, self._me)
        loop = asyncio.get_running_loop()
        self._encoded: list[asyncio.Future[WireTensor]] = [
            loop.create_future() for _ in self._table.chunks
        ]
        self._complete: asyncio.Queue[int] = asyncio.Queue(maxsize=max(1, len(self._encoded)))
        self._fault: asyncio.Future[Fault] = loop.create_future()
        self._owed = {
            m.uid: len(plan.chunks_of(i)) for i, m in enumerate(plan.members) if i != self._me
        }
        self._add_own()

    def fail(self, uid: ExpertUid, reason: str) -> None:
        """Give up because of a member: its link is gone. No effect once all means are here."""
        if not self._fault.done():
            self._fault.set_result(Fault((uid,), reason))

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
            start, stop = self._table.chunks[chunk]
            values = await self._decoded(message.tensors[0], stop - start)
            self._keep(member, chunk, values)
        encoded = await asyncio.shield(self._encoded[chunk])
        self.bytes_sent += encoded.spec.nbytes
        return Message({}, (encoded,))

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
        """Reduce our chunks and fetch the others', starting with the owner after us.

        The rotation keeps members from all sending to the same owner first.
        """
        num_members = len(self._plan.members)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._reduce_all(), name="averaging.reduce")
            for step in range(1, num_members):
                owner = (self._me + step) % num_members
                chunks = iter(enumerate(self._plan.chunks_of(owner)))
                for _ in range(min(CHUNKS_IN_FLIGHT, len(self._plan.chunks_of(owner)))):
                    work = self._fetch_some(owner, chunks, timeout_s)
                    tasks.create_task(work, name=f"averaging.fetch.{owner}")

    async def _reduce_all(self) -> None:
        for _ in self._table.chunks:
            chunk = await self._complete.get()
            encoded = await self._executor.run(self._reduce_work(chunk))
            if not self._encoded[chunk].done():
                self._encoded[chunk].set_result(to_wire("mean", encoded))

    def _reduce_work(self, chunk: int) -> Callable[[], Tensor]:
        start, stop = self._table.chunks[chunk]
        contributions = self._table.take_chunk(chunk)

        def work() -> Tensor:
            mean = weighted_mean(contributions, self._weights, stop - start)
            encoded = self._codec.encode(mean)
            self.mean[start:stop] = self._codec.decode(encoded, stop - start)
            return encoded

        return work

    async def _fetch_some(
        self, owner: int, chunks: Iterator[tuple[int, tuple[int, int]]], timeout_s: float
    ) -> None:
        """Fetch what is left of an owner's chunks, one after the other, until none is left."""
        uid = self._plan.members[owner].uid
        try:
            for chunk, (start, stop) in chunks:
                await self._fetch(owner, chunk, start, stop, timeout_s)
                self._owed[uid] -= 1
        except NetworkError as error:
            self.fail(uid, str(error))
        except DistqatError as error:
            self.fail(uid, f"{uid} answered: {error}")

    async def _fetch(self, owner: int, chunk: int, start: int, stop: int, timeout_s: float) -> None:
        member = self._plan.members[owner]
        target = self.mean[start:stop]
        tensors = await self._encoded_values(start, stop)
        self.bytes_sent += sum(tensor.spec.nbytes for tensor in tensors)
        body = {
            "to": member.uid,
            "from": self._plan.members[self._me].uid,
            "round": self._plan.round_id,
            "chunk": chunk,
        }
        answer = await self._rpc.call(
            member.peer_id,
            CHUNK,
            Message(body, tensors),
            timeout_s=timeout_s,
            sink=lambda spec: _destination(spec, target),
        )
        if len(answer.tensors) != 1:
            raise RemoteProtocolError(f"{len(answer.tensors)} tensors instead of a mean")
        await self._store(answer.tensors[0], target)

    async def _encoded_values(self, start: int, stop: int) -> tuple[WireTensor, ...]:
        if self._me not in self._table.contributors:
            return ()
        values = self._values[start:stop]
        if self._plan.codec == "fp32":
            return (to_wire("values", values),)
        return (to_wire("values", await self._executor.run(lambda: self._codec.encode(values))),)

    async def _decoded(self, tensor: WireTensor, num_values: int) -> Tensor:
        received = from_wire(tensor)
        if self._plan.codec == "fp32":
            return received
        return await self._executor.run(lambda: self._codec.decode(received, num_values))

    async def _store(self, tensor: WireTensor, target: Tensor) -> None:
        received = from_wire(tensor)
        if self._plan.codec == "fp32" and received.data_ptr() == target.data_ptr():
            return  # it was received in place

        await self._executor.run(lambda: target.copy_(self._codec.decode(received, target.numel())))


def _destination(spec: TensorSpec, target: Tensor) -> memoryview:
    """Receive an fp32 mean straight into its place, anything else into fresh memory."""
    if spec.dtype == "float32" and spec.shape == tuple(target.shape):
        return to_wire("mean", target).data
    if spec.nbytes > target.nbytes:
        raise RemoteProtocolError(f"a mean of {spec.nbytes} bytes for {target.numel()} values")
    return torch_sink(spec)
