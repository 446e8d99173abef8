"""The owner's side of an exchange without I/O: what has arrived, and what it adds up to."""

from collections.abc import Mapping

import torch
from torch import Tensor

from distqatd.averaging.packing import EXACT, Packing
from distqatd.averaging.plan import Plan
from distqatd.base.errors import NonFinite, RemoteProtocolError
from distqatd.base.ids import ExpertUid
from distqatd.optim.robust import Shares
from distqatd.wire.payload import WireTensor


@torch.no_grad()
def weighted_mean(
    contributions: Mapping[int, Tensor],
    weights: Mapping[int, float],
    mean: Tensor,
    scratch: Tensor,
) -> None:
    """Set `mean` to the sum of weight x contribution, in ascending order of member index.

    Args:
        contributions: by member index, at least one; float32, (N,); not modified.
        weights: share of each contributor; they sum to 1 over all of them.
        mean: where the result goes; float32, (N,).
        scratch: memory of at least N float32, overwritten. Fresh memory for every product costs
            more than the products: the kernel clears each page of it.

    Every product and every sum is rounded to fp32 on its own: a fused multiply-add rounds once,
    and whether torch fuses depends on the processor and on the place in the vector.
    """
    product = scratch[: mean.numel()]
    first, *others = sorted(contributions)
    torch.mul(contributions[first], weights[first], out=mean)
    for index in others:
        mean.add_(torch.mul(contributions[index], weights[index], out=product))


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

    def has(self, member: int, chunk: int) -> bool:
        """Return whether a member's contribution has come, also if it was taken since."""
        return member in self._arrived[chunk]

    def peek(self, chunk: int) -> Mapping[int, Tensor]:
        """Return a chunk's contributions and keep them."""
        return self._arrived[chunk]

    def take_chunk(self, chunk: int) -> dict[int, Tensor]:
        """Return a complete chunk's contributions and drop their values from the table."""
        arrived = self._arrived[chunk]
        # The keys stay: a contribution sent twice must not count as a new one.
        self._arrived[chunk] = {member: torch.empty(0) for member in arrived}
        return arrived

    def late(self) -> tuple[ExpertUid, ...]:
        """Return the members without whom an own chunk that others have sent is not complete."""
        begun = [arrived.keys() for arrived in self._arrived if len(arrived) > 1]
        late = {i for arrived in begun for i in self.contributors - arrived}
        return tuple(self._plan.members[i].uid for i in sorted(late))

    def missing(self) -> tuple[ExpertUid, ...]:
        """Return the members that owe a contribution to any own chunk, in order."""
        owing = {i for arrived in self._arrived for i in self.contributors - arrived.keys()}
        return tuple(self._plan.members[i].uid for i in sorted(owing))


class Reducer:
    """What an owner makes of the contributions to a chunk.

    Attributes:
        mean: the result of all chunks, float32, CPU, (num_elements,).
        shares: factors of the contributions.
        dropped: members whose values of some chunk were left out: they were NaN or infinite.
    """

    def __init__(self, plan: Plan, packing: Packing, mean: Tensor) -> None:
        self.mean = mean
        weights = {i: m.weight for i, m in enumerate(plan.members) if m.samples}
        self.shares = Shares(weights, weights)
        self.dropped: set[int] = set()
        self._plan = plan
        self._packing = packing
        self._scratch = torch.empty(min(plan.chunk_bytes // 4, plan.num_elements))

    def packing_at(self, start: int) -> Packing:
        """Return how a chunk that begins at element `start` travels."""
        return self._packing if start < self._plan.num_coded else EXACT

    def reduce(self, start: int, stop: int, contributions: Mapping[int, Tensor]) -> WireTensor:
        """Write a chunk of the mean and return it as it travels.

        Contributions that are not finite are left out; the others count for more.

        Raises:
            NonFinite: none is finite.
        """
        mean = self.mean[start:stop]
        self._combine(start, contributions, mean)
        if not self._is_sound(start, mean):
            good = {i: c for i, c in contributions.items() if self._is_sound(start, c)}
            if not good or len(good) == len(contributions):
                raise NonFinite(f"elements {start} to {stop} are finite nowhere")
            self.dropped |= contributions.keys() - good.keys()
            self._combine(start, good, mean)
        packing = self.packing_at(start)
        encoded = packing.codec.encode(mean)
        if encoded.data_ptr() != mean.data_ptr():
            self._keep_as_sent(packing, encoded, mean)
        return packing.travelling("mean", encoded)

    def _combine(self, start: int, contributions: Mapping[int, Tensor], mean: Tensor) -> None:
        counted = {i: c for i, c in contributions.items() if i not in self.shares.dropped}
        if start >= self._plan.num_averaged:
            torch.amax(torch.stack(list(counted.values())), 0, out=mean)
            return
        usual = self.shares.params if start < self._plan.num_coded else self.shares.others
        missing = sum(usual[i] for i in usual.keys() - counted.keys())
        scale = 1 / (1 - missing) if 0 < missing < 1 else 1.0
        weighted_mean(counted, {i: usual[i] * scale for i in counted}, mean, self._scratch)

    def _is_sound(self, start: int, values: Tensor) -> bool:
        if start >= self._plan.num_averaged:
            return bool((values < torch.inf).all())  # -inf: nothing was seen yet
        # A sum is finite only if all are; one that overflows is looked at closely.
        return bool(values.sum().isfinite()) or bool(values.isfinite().all())

    def _keep_as_sent(self, packing: Packing, encoded: Tensor, mean: Tensor) -> None:
        """Have the owner hold what the others will decode, not what it has computed."""
        mean.copy_(packing.codec.decode(encoded, mean.numel()))
