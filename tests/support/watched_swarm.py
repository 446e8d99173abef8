"""Watches the experts of simulated daemons from outside, and writes down what they do."""

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from distqatd.averaging.averager import Averager
from distqatd.compute.expert import Expert


@dataclass
class Book:
    """What happened in the whole swarm.

    Attributes:
        applied: how often each (stage, batch) was applied, on any replica.
        wrong: outer steps whose mean is not that of the members' contributions, bit for bit.
        num_rounds: outer steps of several members that were checked.
    """

    applied: Counter[tuple[str, int]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    num_rounds: int = 0

    def most(self) -> int:
        """Return how often a stage applied one batch, at most."""
        return max(self.applied.values(), default=0)


@contextmanager
def watched() -> Iterator[Book]:
    """Watch all experts of the process."""
    book = Book()
    with _watched_steps(book), _watched_rounds(book):
        yield book


@contextmanager
def _watched_steps(book: Book) -> Iterator[None]:
    apply = Expert.apply

    def watched_apply(self, num_samples, batch=None, scale=None):
        result = apply(self, num_samples, batch, scale)
        if not result.is_repeat:
            book.applied[_stage(self.uid), batch] += 1
        return result

    Expert.apply = watched_apply
    try:
        yield
    finally:
        Expert.apply = apply


@contextmanager
def _watched_rounds(book: Book) -> Iterator[None]:
    brought: dict[tuple[int, str], list[torch.Tensor]] = {}
    round_ = Averager.round

    async def watched_round(self, uid, contribution):
        given = brought.setdefault((contribution.outer_step + 1, uid), [])
        given.append(contribution.pseudo_gradient.clone())
        committed = await round_(self, uid, contribution)
        if len(committed.members) > 1:
            book.num_rounds += 1
            if not _is_mean(committed, brought):
                book.wrong.append(f"{uid} took outer step {committed.outer_step} with another mean")
        return committed

    Averager.round = watched_round
    try:
        yield
    finally:
        Averager.round = round_


def _is_mean(committed, brought) -> bool:
    """Return whether the mean is the sum over the members in uid order, each rounded to fp32."""
    weights = {uid: weight for uid, weight in sorted(committed.weights.items()) if weight}
    # A member that tried before has brought something for this outer step more than once.
    for choice in itertools.product(*(brought[committed.outer_step, uid] for uid in weights)):
        mean = torch.zeros_like(committed.mean)
        for weight, given in zip(weights.values(), choice, strict=True):
            mean += given * weight
        if torch.equal(mean, committed.mean):
            return True
    return False


def _stage(uid: str) -> str:
    return uid.split(".")[0]
