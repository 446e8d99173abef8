"""What a replica has trained that is not in the whole anchor yet, counted by fragment. Pure.

A batch is in the anchor, as the book says, from the first outer step on that takes any fragment of
what it has taught. The other fragments bring their part of it in their own turns: until then it is
in the parameters of this replica only, and how many samples that are is its weight in those turns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from distqatd.base.errors import CheckpointError
from distqatd.base.intervals import IntervalSet
from distqatd.compute.book import NO_BATCHES, BatchBook
from distqatd.compute.results import INNER_PREFIX, OWN, Snapshot

LOCAL = INNER_PREFIX + "local"
"""In snapshots with inner state where outer steps take fragments: parameters and buffers (N) of
this replica, which then differ from the anchor."""


@dataclass(frozen=True, slots=True)
class Work:
    """Samples and steps since outer steps took them.

    Attributes:
        samples: for each fragment, since an outer step last took it.
        steps: inner steps since the last outer step, whatever it took.
    """

    samples: tuple[int, ...] = (0,)
    steps: int = 0

    @property
    def unsent(self) -> int:
        """Return the samples that are not in every fragment of the anchor."""
        return max(self.samples)

    def weight(self, numbers: Sequence[int]) -> int:
        """Return the samples that an outer step of these fragments would take."""
        return max(self.samples[number] for number in numbers)

    def trained(self, num_samples: int) -> "Work":
        """Return this after one more inner step."""
        return Work(tuple(each + num_samples for each in self.samples), self.steps + 1)

    def less(self, numbers: Sequence[int], num_samples: int, num_steps: int) -> "Work":
        """Return this after an outer step of these fragments took so much of it."""
        left = self.weight(numbers) - num_samples
        samples = tuple(left if i in numbers else each for i, each in enumerate(self.samples))
        return Work(samples, self.steps - num_steps)

    def nothing(self) -> "Work":
        """Return no work, of as many fragments."""
        return Work((0,) * len(self.samples))


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a replica stands.

    Attributes:
        book: its batches.
        work: what it has trained that is not in the whole anchor.
        inner_step: inner steps that it has applied.
        voters: who decides the next outer step.
    """

    book: BatchBook
    work: Work
    inner_step: int
    voters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Own:
    """What a snapshot holds of one replica beside its anchor.

    Attributes:
        local: its parameters and buffers, (N,) float32 on the CPU.
        ints: its integer buffers.
        work: what it has trained.
        batches: those applied since the last outer step.
    """

    local: Tensor
    ints: Mapping[str, int]
    work: Work
    batches: IntervalSet = NO_BATCHES

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of a snapshot."""
        return {LOCAL: self.local}

    def meta(self) -> dict[str, Any]:
        """Return the plain values of a snapshot."""
        return {
            OWN: {
                "ints": dict(self.ints),
                "samples": list(self.work.samples),
                "steps": self.work.steps,
                "batches": self.batches.to_list(),
            }
        }


def read_own(snapshot: Snapshot, num_elements: int, num_fragments: int) -> Own | None:
    """Return what a snapshot, perhaps from a peer or a disk, holds of a replica, if anything.

    Raises:
        CheckpointError: it is of another stage, or cannot be read.
    """
    value: Any = snapshot.meta.get(OWN)
    if value is None:
        return None
    local = snapshot.tensors.get(LOCAL)
    if local is None or local.shape != (num_elements,):
        raise CheckpointError(f"the snapshot has no parameters of its own, {num_elements} elements")
    if not isinstance(value, Mapping):
        raise CheckpointError("what the snapshot says of its replica cannot be read")
    ints = value.get("ints")
    if not isinstance(ints, dict) or any(type(each) is not int for each in ints.values()):
        raise CheckpointError("the replica's integer buffers in the snapshot cannot be read")
    counts = [*_counts(value.get("samples"), num_fragments), *_counts([value.get("steps")], 1)]
    try:
        batches = IntervalSet.read(value.get("batches", []))
    except ValueError as error:
        raise CheckpointError(f"the replica's batches in the snapshot: {error}") from error
    return Own(local, ints, Work(tuple(counts[:-1]), counts[-1]), batches)


def _counts(values: Any, num_expected: int) -> list[int]:
    is_list = isinstance(values, list) and len(values) == num_expected
    if not is_list or any(type(value) is not int or value < 0 for value in values):
        raise CheckpointError("the replica's counts in the snapshot cannot be read")
    return list(values)
