"""An exchange in which nobody's contribution can carry the mean away.

Three passes instead of one: all values go to the owners; each owner's part of the Gram matrix goes
to everybody, and from the sum all derive the same factors; then the means are fetched. Owners hold
all contributions to their slice until then: about one vector more than in a plain exchange. An
owner may still lie about its own slice; contributors cannot.
"""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Final

import torch
from torch import Tensor

from distqatd.averaging.butterfly import Butterfly
from distqatd.averaging.slicing import CHUNKS_IN_FLIGHT
from distqatd.base.errors import NonFinite, RemoteProtocolError, RoundAborted
from distqatd.compute.payload import from_wire, to_wire
from distqatd.optim.robust import gram, shares
from distqatd.wire.fields import need
from distqatd.wire.payload import Message

PUT: Final = "put"
GRAM: Final = "gram"
MEAN: Final = "mean"


class RobustButterfly(Butterfly):
    """One member's part in a robust exchange; `limit` must be called before `run`."""

    def limit(self, *, clip_factor: float | None, is_centered: bool) -> None:
        """Set what is done about unusual contributions; see `optim.robust.shares`."""
        self._clip_factor = clip_factor
        self._is_centered = is_centered
        self._gram: asyncio.Future[Tensor] = asyncio.get_running_loop().create_future()

    def close(self, reason: str) -> None:
        """End the round here, also for those who wait for our part of the Gram matrix."""
        if not self._gram.done():
            self._gram.set_exception(RoundAborted(reason))
            self._gram.exception()  # marks it as seen: often nobody waits
        super().close(reason)

    async def answer(self, member: int, body: Mapping[str, object], message: Message) -> Message:
        """Serve `averaging.chunk` in one of its three parts.

        Raises:
            RemoteProtocolError: the request does not fit the plan.
            RoundAborted: the round ended before the answer was there.
        """
        part = need(body, "part", str)
        if part == GRAM:
            return Message({"dropped": []}, (to_wire("gram", await asyncio.shield(self._gram)),))
        chunk, is_put = need(body, "chunk", int), part == PUT
        if is_put != bool(message.tensors):
            raise RemoteProtocolError(f"part {part!r} with {len(message.tensors)} tensors")
        self._table.check(member, chunk, has_values=is_put or member in self._table.contributors)
        if is_put:
            await self._receive(member, chunk, message.tensors[0])
            return Message({"dropped": []})
        return await self._mean_of(chunk)

    async def _exchange(self, timeout_s: float) -> None:
        await self._scatter(timeout_s)
        for _ in self._table.chunks:
            await self._complete.get()
        self._gram.set_result(await self._executor.run(self._own_gram))
        total = await self._total_gram(timeout_s)
        weights = {i: self._plan.members[i].weight for i in sorted(self._table.contributors)}
        try:
            self._reducer.shares = shares(
                total,
                weights,
                clip_factor=self._clip_factor,
                past_norms=self._plan.past_norms,
                is_centered=self._is_centered,
            )
        except NonFinite as error:
            self._blame([self._plan.members[i].uid for i in weights], str(error))
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._reduce_chunks(), name="averaging.reduce")
            self._fetch_all(tasks, timeout_s)

    async def _reduce_chunks(self) -> None:
        for chunk in range(len(self._table.chunks)):
            await self._reduce(chunk)

    async def _scatter(self, timeout_s: float) -> None:
        if self._me not in self._table.contributors:
            return
        async with asyncio.TaskGroup() as tasks:
            for owner in self._others():
                chunks = iter(enumerate(self._plan.chunks_of(owner)))
                for _ in range(CHUNKS_IN_FLIGHT):
                    tasks.create_task(self._put_some(owner, chunks, timeout_s))

    async def _put_some(
        self, owner: int, chunks: Iterator[tuple[int, tuple[int, int]]], timeout_s: float
    ) -> None:
        with self._blaming(owner):
            for chunk, (start, stop) in chunks:
                tensors = await self._encoded_values(start, stop)
                await self._ask(owner, {"part": PUT, "chunk": chunk}, tensors, timeout_s)

    def _own_gram(self) -> Tensor:
        num = len(self._table.contributors)
        total = torch.zeros(num, num, dtype=torch.float64)
        for chunk, (start, _) in enumerate(self._table.chunks):
            if start < self._plan.num_coded:
                held = self._table.peek(chunk)
                total += gram([held[i] for i in sorted(held)])
        return total

    async def _total_gram(self, timeout_s: float) -> Tensor:
        """Return the sum of all parts, in the order of the plan: the same bits everywhere."""
        parts = {self._me: self._gram.result()}
        owners = [i for i in self._others() if self._plan.chunks_of(i)]

        async def get(owner: int) -> None:
            with self._blaming(owner):
                answer = await self._ask(owner, {"part": GRAM, "chunk": 0}, (), timeout_s)
                parts[owner] = _read_gram(answer, len(self._table.contributors))

        async with asyncio.TaskGroup() as tasks:
            for owner in owners:
                tasks.create_task(get(owner), name=f"averaging.gram.{owner}")
        if len(parts) <= len(owners):
            await self._fault  # whoever did not answer is blamed: the round ends here
        return torch.stack([parts[i] for i in sorted(parts)]).sum(0)

    def _fetch_body(self, chunk: int) -> dict[str, object]:
        return {"part": MEAN, "chunk": chunk}

    async def _values_to_fetch_with(self, start: int, stop: int) -> tuple[()]:
        return ()


def _read_gram(answer: Message, num: int) -> Tensor:
    if len(answer.tensors) != 1:
        raise RemoteProtocolError("no Gram matrix")
    part = from_wire(answer.tensors[0])
    if part.dtype != torch.float64 or part.shape != (num, num):
        raise RemoteProtocolError(f"a Gram matrix of {list(part.shape)} for {num} contributors")
    return part
