"""The joiner's side of a state transfer: from several donors at once, each chunk checked.

A donor that leaves, stalls or sends a wrong chunk is named and dropped, and costs no more than
its chunks in flight: the others go on. What was checked is kept, so a transfer that all donors
have left goes on with new ones that hold the same state. Bytes arrive in memory of their own and
reach the state only after their digest was found right.

Nothing here needs torch. `fetch` is all most callers need; `StateFetch` is for those who ask for
several states first, or try again.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from distqatd.averaging.manifest import Manifest, StateBytes, bytes_of
from distqatd.averaging.offers import Donor, Offer, Wanted, ask_donors, best_offer
from distqatd.averaging.serving import Run, run_here
from distqatd.averaging.stripes import ChunkBoard
from distqatd.averaging.striping import Striping
from distqatd.base.errors import CheckpointError
from distqatd.base.events import EventLog
from distqatd.net.rpc import Rpc
from distqatd.wire.payload import TensorSpec

Allocate = Callable[[TensorSpec], memoryview]
"""Returns writable memory of `spec.nbytes` bytes for a tensor: in RAM, or of a mapped file."""

STALL_S = 600.0
"""A transfer that gets no chunk for this long ends; a donor gets less, see `striping`."""


def new_buffer(spec: TensorSpec) -> memoryview:
    """Return fresh zeroed memory for a tensor."""
    return memoryview(bytearray(spec.nbytes))


async def fetch(
    rpc: Rpc,
    donors: Sequence[Donor],
    events: EventLog,
    *,
    wanted: Wanted | None = None,
    allocate: Allocate = new_buffer,
    run: Run = run_here,
    stall_s: float = STALL_S,
) -> StateBytes:
    """Get the newest state that the donors hold, checked chunk by chunk and as a whole.

    Args:
        rpc: how donors are called.
        donors: who serves the state; the first MAX_DONORS are used.
        events: told of every donor that is dropped, and why (`state.donor_dropped`), and how far
            a long transfer has come (`state.progress`).
        wanted: what is acceptable; by default the committed parts of any state.
        allocate: where the tensors are put; called once for each, in name order.
        run: where work of a few milliseconds (a chunk's sha256) runs.
        stall_s: seconds without a new chunk after which it ends.

    Raises:
        CheckpointError: no donor is left, or none moves, or the whole does not fit its digest.
    """
    transfer = StateFetch(
        rpc, events, wanted or Wanted(), allocate=allocate, run=run, stall_s=stall_s
    )
    return await transfer.fetch(donors)


class StateFetch:
    """Transfers of one joiner, one after the other; an unfinished one is kept for the next try."""

    def __init__(
        self,
        rpc: Rpc,
        events: EventLog,
        wanted: Wanted,
        *,
        allocate: Allocate = new_buffer,
        run: Run = run_here,
        stall_s: float = STALL_S,
    ) -> None:
        """Prepare; arguments as for `fetch`."""
        self._rpc = rpc
        self._events = events
        self._wanted = wanted
        self._allocate = allocate
        self._run = run
        self._stall_s = stall_s
        self._partial: _Partial | None = None

    async def fetch(self, donors: Sequence[Donor]) -> StateBytes:
        """Get the newest state that the donors hold.

        Raises:
            CheckpointError: as `fetch` in this module.
        """
        return await self.download(best_offer(await self.offers(donors)))

    async def offers(self, donors: Sequence[Donor]) -> tuple[Offer, ...]:
        """Return what the donors have.

        Raises:
            CheckpointError: none has anything for us.
        """
        return await ask_donors(self._rpc, donors, self._events, self._wanted)

    async def download(self, offer: Offer) -> StateBytes:
        """Get one state from all that hold it.

        Raises:
            CheckpointError: as `fetch` in this module. What is here already is kept for the next
                call, if that is for the same state.
        """
        partial = self._partial
        if partial is None or partial.manifest.state_digest != offer.manifest.state_digest:
            partial = self._partial = _Partial(offer.manifest, self._allocate)
        stripes = Striping(self._rpc, self._run, self._events, partial.board)
        await stripes.run(offer.holders, partial.manifest, partial.data, self._stall_s)
        self._partial = None
        await _check_anchor(partial, offer.holders, self._run)
        return partial.state()


class _Partial:
    """A state that is on its way."""

    def __init__(self, manifest: Manifest, allocate: Allocate) -> None:
        self.manifest = manifest
        self.data = tuple(allocate(spec) for spec in manifest.specs)
        self.board = ChunkBoard(len(manifest.chunks))

    def state(self) -> StateBytes:
        manifest = self.manifest
        return StateBytes(
            manifest.outer_step,
            manifest.anchor_digest,
            manifest.layout_digest,
            dict(manifest.meta),
            manifest.specs,
            self.data,
        )


async def _check_anchor(partial: _Partial, holders: Sequence[Donor], run: Run) -> None:
    """Check the anchor as a whole, in pieces so that nobody has to wait for it."""
    manifest, whole = partial.manifest, hashlib.sha256()
    for chunk in manifest.chunks:
        if manifest.specs[chunk.tensor].name == "anchor":
            await run(_update(whole, bytes_of(partial.data, chunk)))
    if whole.hexdigest() != manifest.anchor_digest:
        who = ", ".join(uid for uid, _ in holders)
        found, said = whole.hexdigest()[:12], manifest.anchor_digest[:12]
        raise CheckpointError(f"anchor of {who} is {found}, its manifest says {said}")


def _update(whole: Any, data: memoryview) -> Callable[[], None]:
    return lambda: whole.update(data)
