"""What must hold of all replicas together, whatever happened; kept above the network."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distqatd.averaging.records import Committed
from distqatd.averaging.reduce import weighted_mean
from distqatd.base.intervals import IntervalSet
from tests.sim.sim import Sim

SIZE = 12


def gradient_of(batch: int) -> Tensor:
    """Return what training on one batch adds to a pseudo-gradient: distinct, exact in fp32."""
    values = torch.zeros(SIZE)
    values[batch % SIZE] = 1.0 + batch
    return values


def pseudo_gradient_of(batches: IntervalSet) -> Tensor:
    """Return what training on all these batches adds up to."""
    total = torch.zeros(SIZE)
    for first, end in batches.pairs:
        for batch in range(first, end):
            total += gradient_of(batch)
    return total


@dataclass
class Truth:
    """Everything that was trained, brought to rounds, and taken.

    Attributes:
        digests: of the anchor, by outer step: one for ever.
        commits: how often each replica took each step, over all its lives.
        holders: who took or loaded the anchor of an outer step.
        is_gone: whether an expert died for good and its record has lapsed.
        num_void: steps that nobody holds who is still there; they never were.
        inside: batches that are in the anchor, by outer step.
        owners: the expert that trained each batch.
        on_first: told (uid) when a replica is the first one to take a step.
        brought: sets of batches that each expert has brought to rounds.
    """

    sim: Sim
    digests: dict[int, str] = field(default_factory=dict)
    commits: Counter[tuple[str, int]] = field(default_factory=Counter)
    inside: dict[int, IntervalSet] = field(default_factory=lambda: {0: IntervalSet()})
    brought: dict[str, set[IntervalSet]] = field(default_factory=dict)
    owners: dict[int, str] = field(default_factory=dict)
    holders: dict[int, set[str]] = field(default_factory=dict)
    is_gone: Callable[[str], bool] = lambda _: False
    num_void: int = 0
    on_first: Callable[[str], None] = lambda _: None

    def train(self, uid: str) -> int:
        """Return the next batch of the run; it is this expert's alone."""
        batch = len(self.owners)
        self.owners[batch] = uid
        return batch

    def bring(self, uid: str, batches: IntervalSet) -> None:
        """Note what an expert brings to a round."""
        self.brought.setdefault(uid, set()).add(batches)

    def take(self, uid: str, was: int, committed: Committed, digest: str) -> None:
        """Check a step that a replica at outer step `was` has just taken."""
        step, check = committed.outer_step, self.sim.check
        check(step == was + 1, f"{uid} at outer step {was} takes {step}")
        self.commits[uid, step] += 1
        check(self.commits[uid, step] == 1, f"{uid} takes outer step {step} twice")
        if self.digests.get(step, digest) != digest:
            self._void(step)
        is_first = step not in self.digests
        known = self.digests.setdefault(step, digest)
        check(known == digest, f"{uid} holds another anchor at outer step {step}")
        self.holders.setdefault(step, set()).add(uid)
        if is_first:
            self._check_mean(step, committed)
            self.inside[step] = self.inside[step - 1].union(committed.batches)
            self.sim.loop.call_soon(self.on_first, uid)

    def load(self, uid: str, step: int, digest: str) -> None:
        """Check a state that a replica takes over."""
        self.sim.check(self.digests.get(step) == digest, f"{uid} loads another anchor of {step}")
        self.holders[step].add(uid)

    def _void(self, step: int) -> None:
        """Forget a step if all that ever held it are gone for good: nobody can tell the difference.

        The means of a step that was taken are in its members' memories. If all but one restart,
        and that one is cut off and dies, the step has died with it.
        """
        if all(map(self.is_gone, self.holders[step])):
            self.num_void += 1
            for later in [s for s in self.digests if s >= step]:
                del self.digests[later], self.inside[later], self.holders[later]

    def _check_mean(self, step: int, committed: Committed) -> None:
        check = self.sim.check
        again = self.inside[step - 1].overlap(committed.batches)
        check(not again, f"{again} batches count again in outer step {step}")
        by_owner: dict[str, IntervalSet] = {uid: IntervalSet() for uid in committed.members}
        for first, end in committed.batches.pairs:
            for batch in range(first, end):
                owner = self.owners[batch]
                check(owner in by_owner, f"batch {batch} of {owner} is in outer step {step}")
                by_owner[owner] = by_owner[owner].add(batch, batch + 1)
        gifts = {}
        for index, uid in enumerate(committed.members):
            known = by_owner[uid] in self.brought[uid] or not by_owner[uid]
            check(known, f"outer step {step} has a part of what {uid} brought")
            gifts[index] = pseudo_gradient_of(by_owner[uid])
        total = sum(len(batches) for batches in by_owner.values())
        weights = {i: len(by_owner[uid]) / total for i, uid in enumerate(committed.members)}
        right = torch.empty(SIZE)
        given = {i: gift for i, gift in gifts.items() if weights[i]}
        weighted_mean(given, weights, right, torch.empty(SIZE))
        check(torch.equal(committed.mean, right), f"outer step {step} has a wrong mean")
