"""Bugs planted into whole daemons: the simulator must catch each within some seeds."""

import pytest

from distqatd.averaging import reduce
from distqatd.averaging.state import Donors
from distqatd.compute.book import BatchBook
from distqatd.compute.expert import Expert
from distqatd.pipeline.session import Session
from distqatd.roles.trainer_steps import JobSteps
from tests.sim.registry import find
from tests.sim.sim import SimFailure, run

Patch = pytest.MonkeyPatch


def first_failure(name: str, num_seeds: int) -> str:
    """Return what the first failing seed of a scenario says; fail if none does."""
    for seed in range(num_seeds):
        try:
            run(find(name), seed)
        except SimFailure as failure:
            return str(failure)
    pytest.fail(f"{name} holds for {num_seeds} seeds: the planted bug was not caught")


def test_a_commit_that_is_applied_twice_is_caught(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Session, "may_commit", lambda *_: True)
    # The expert's own guards against an update without a step, and of a batch, would hide it.
    monkeypatch.setattr(BatchBook, "__contains__", lambda *_: False)
    monkeypatch.setattr(Expert, "_check_complete", lambda _: None)
    assert "applied too often" in first_failure("expert-dies", 20)


def test_an_abort_that_keeps_gradients_is_caught(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Expert, "abort", lambda self: self._passes.abort())
    assert "is not plain torch's" in first_failure("replays-exactly", 30)


def test_an_abort_that_forgets_which_batch_it_was_is_caught(monkeypatch: Patch) -> None:
    give_up = JobSteps._give_up

    async def skipping(self, error):
        await give_up(self, error)
        self._job.leases.current.next += 1

    monkeypatch.setattr(JobSteps, "_give_up", skipping)
    assert "is not plain torch's" in first_failure("replays-exactly", 30)


def test_a_donor_that_serves_a_stale_anchor_is_caught(monkeypatch: Patch) -> None:
    attach = Donors.attach

    def stale(self, uid, snapshot):
        first = snapshot()
        attach(self, uid, lambda: first)

    monkeypatch.setattr(Donors, "attach", stale)
    first_failure("late-joiner", 10)


def test_a_round_that_averages_in_the_order_of_arrival_is_caught(monkeypatch: Patch) -> None:
    exact = reduce.weighted_mean

    def as_they_came(contributions, weights, *memory):
        order = dict(enumerate(contributions))
        renamed = {place: contributions[member] for place, member in order.items()}
        return exact(renamed, {p: weights[m] for p, m in order.items()}, *memory)

    monkeypatch.setattr(reduce, "weighted_mean", as_they_came)
    assert "wrong means" in first_failure("three-replicas", 20)
