"""State of experts on the wire: snapshots as bytes and back, for donors and late joiners.

The transfer itself is in `serving` (donor) and `transfer` (joiner), which know nothing of torch.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from distqatd.averaging.manifest import ALL, COMMITTED, StateBytes
from distqatd.averaging.offers import Donor as Donor
from distqatd.averaging.offers import Wanted
from distqatd.averaging.serving import NUM_SLOTS, Run, StateServer
from distqatd.averaging.transfer import STALL_S, fetch
from distqatd.base.events import EventLog
from distqatd.compute.executor import Executor
from distqatd.compute.payload import from_wire, to_wire, torch_sink
from distqatd.compute.results import Snapshot
from distqatd.net.rpc import Rpc

T = TypeVar("T")

PRIORITY_HASH = 2
"""As a forward: hashing waits its turn among microbatches, and delays none of them for long."""


def pack(snapshot: Snapshot, parts: str = COMMITTED) -> StateBytes:
    """Return a snapshot as bytes, not copied.

    Raises:
        CheckpointError: `parts` is ALL and the snapshot has no inner state.
    """
    wanted = snapshot.committed() if parts == COMMITTED else snapshot.complete()
    wires = [to_wire(name, wanted.tensors[name]) for name in sorted(wanted.tensors)]
    return StateBytes(
        wanted.outer_step,
        wanted.anchor_digest,
        wanted.layout_digest,
        wanted.meta,
        tuple(wire.spec for wire in wires),
        tuple(wire.data for wire in wires),
        made_of=snapshot,
    )


def unpack(state: StateBytes) -> Snapshot:
    """Return bytes as a snapshot; its tensors share memory with writable bytes."""
    return Snapshot(
        state.outer_step,
        state.anchor_digest,
        state.layout_digest,
        {name: from_wire(wire) for name, wire in state.tensors().items()},
        dict(state.meta),
    )


class Donors(StateServer):
    """Serves the committed state of the experts here; also while they train or average."""

    def __init__(self, rpc: Rpc, executor: Executor, *, num_slots: int = NUM_SLOTS) -> None:
        """Register the methods. Digests are computed on `executor`, when first asked for."""
        super().__init__(rpc, num_slots=num_slots)
        self._run = runner(executor)

    def attach(
        self,
        uid: str,
        snapshot: Callable[[], Snapshot],
        complete: Callable[[], Snapshot] | None = None,
        keep_inner_state: Callable[[], None] | None = None,
    ) -> None:
        """Serve the state of an expert.

        Args:
            uid: the expert.
            snapshot: returns its last committed state, immutable.
            complete: returns the last one with inner state, which may be older; None: `snapshot`.
            keep_inner_state: called when somebody asks for inner state.
        """

        def source(parts: str) -> StateBytes:
            if parts == ALL and keep_inner_state is not None:
                keep_inner_state()
            made = snapshot if parts == COMMITTED or complete is None else complete
            return pack(made(), parts)

        self.offer(uid, source, self._run)

    def detach(self, uid: str) -> None:
        """Serve it no more; joiners that are fetching it go on with other donors."""
        self.withdraw(uid)


def runner(executor: Executor) -> Run:
    """Return how work of a few milliseconds is done on a device's thread."""

    async def run(work: Callable[[], T]) -> T:
        return await executor.run(work, priority=PRIORITY_HASH)

    return run


async def fetch_state(
    rpc: Rpc,
    donors: Sequence[Donor],
    events: EventLog,
    executor: Executor,
    *,
    wanted: Wanted | None = None,
    stall_s: float = STALL_S,
) -> Snapshot:
    """Get the newest state that the donors hold as a snapshot; see `transfer.fetch`.

    Raises:
        CheckpointError: no donor is left, or none moves, or the whole does not fit its digest.
    """
    state = await fetch(
        rpc,
        donors,
        events,
        wanted=wanted,
        allocate=torch_sink,
        run=runner(executor),
        stall_s=stall_s,
    )
    return unpack(state)
