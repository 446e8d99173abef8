"""Reading what a snapshot, perhaps from a peer or a disk, says about itself."""

from collections.abc import Iterable
from typing import Any

from distqatd.base.errors import CheckpointError
from distqatd.base.intervals import IntervalSet
from distqatd.compute.results import Snapshot
from distqatd.compute.scale import LossScale
from distqatd.optim.digest import digest
from distqatd.optim.flat import FlatLayout

MAX_VOTERS = 256


def check_snapshot(snapshot: Snapshot, layout: FlatLayout, outer: Iterable[str]) -> None:
    """Check that a snapshot, perhaps from a peer or a disk, is one of the stage with `layout`.

    Args:
        snapshot: what is checked.
        layout: of the stage.
        outer: names of the outer optimizer's state tensors.

    Raises:
        CheckpointError: it is of another stage, incomplete, or not what its digest says.
    """
    wanted = layout.digest()
    if snapshot.layout_digest != wanted:
        raise CheckpointError(
            f"the snapshot is of a stage with layout {snapshot.layout_digest[:12]}, "
            f"this one has {wanted[:12]}; model options differ"
        )
    sizes = {"anchor": layout.num_elements, **dict.fromkeys(outer, layout.num_params)}
    for name, num in sizes.items():
        tensor = snapshot.tensors.get(name)
        if tensor is None or tensor.shape != (num,):
            raise CheckpointError(f"the snapshot has no {name} of {num} elements")
    found = digest(snapshot.tensors["anchor"])
    if found != snapshot.anchor_digest:
        raise CheckpointError(f"anchor has digest {found}, not {snapshot.anchor_digest}")


def read_batches(snapshot: Snapshot) -> IntervalSet:
    """Return the batches inside a snapshot's anchor, none if it does not say.

    Raises:
        CheckpointError: what it says cannot be read.
    """
    try:
        return IntervalSet.read(snapshot.meta.get("batches", []))
    except ValueError as error:
        raise CheckpointError(f"the batches of the snapshot: {error}") from error


def read_voters(snapshot: Snapshot) -> tuple[str, ...]:
    """Return who decides the outer step after a snapshot's, none if it does not say.

    Raises:
        CheckpointError: what it says is not a sorted list of at most MAX_VOTERS names.
    """
    value: Any = snapshot.meta.get("voters", [])
    is_list = type(value) is list and len(value) <= MAX_VOTERS
    if not is_list or any(type(voter) is not str or len(voter) > 256 for voter in value):
        raise CheckpointError("the voters of the snapshot cannot be read")
    if value != sorted(set(value)):
        raise CheckpointError("the voters of the snapshot are not in order")
    return tuple(value)


def read_inner_step(snapshot: Snapshot) -> int | None:
    """Return the inner steps that the replica of a snapshot had applied, None if not said.

    Raises:
        CheckpointError: what it says is not a number of steps.
    """
    value: Any = snapshot.meta.get("inner_step")
    if value is None:
        return None
    if type(value) is not int or value < 0:
        raise CheckpointError(f"the snapshot has {str(value)[:40]!r} inner steps")
    return value


def read_loss_scale(snapshot: Snapshot) -> LossScale | None:
    """Return the loss scale of the last step before a snapshot, None if it does not say.

    Raises:
        CheckpointError: what it says is no loss scale.
    """
    value: Any = snapshot.meta.get("loss_scale")
    try:
        return None if value is None else LossScale.read(value)
    except ValueError as error:
        raise CheckpointError(f"the snapshot: {error}") from error
