"""Five bugs planted into whole daemons: swarms in trouble must show each within some seeds.

The seeds of a family are tried in their order; the limit is what is promised, the number of seeds
that it takes now stands beside it.
"""

from collections.abc import Iterator

import pytest

from distqatd.base.decision import Decision
from distqatd.compute.book import BatchBook
from distqatd.compute.expert import Expert
from distqatd.compute.gradients import StepGradients
from distqatd.pipeline.session import Session
from distqatd.roles.absence import Absence
from distqatd.roles.claim import Claim
from distqatd.swarm.ledger import Ledger
from tests.sim.elastic.draw import draw
from tests.sim.registry import find
from tests.sim.sim import SimFailure, run

Patch = pytest.MonkeyPatch


def seeds_of(*families: str) -> Iterator[int]:
    """Return the seeds of some families in order."""
    return (seed for seed in range(10_000) if draw(seed).family in families)


def first_failure(num_seeds: int, *families: str) -> str:
    """Return what the first failing seed of some families says; fail if `num_seeds` hold."""
    for number, seed in zip(range(num_seeds), seeds_of(*families), strict=False):
        try:
            run(find("elastic"), seed)
        except SimFailure as failure:
            print(f"caught by seed {seed}, number {number + 1}")
            return str(failure)
    return pytest.fail(f"the planted bug was not caught by {num_seeds} seeds of {families}")


def test_a_step_that_is_applied_twice_is_caught(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Session, "may_commit", lambda *_: True)
    # The expert's own guards against an update without a step, and of a batch, would hide it.
    monkeypatch.setattr(BatchBook, "__contains__", lambda *_: False)
    monkeypatch.setattr(Expert, "_check_complete", lambda _: None)
    assert "twice" in first_failure(20, "await-point-expert")


def test_an_abort_that_is_lost_is_caught(monkeypatch: Patch) -> None:
    def abort(self: Expert) -> None:
        grads, self._grads = self._grads, StepGradients([])
        try:
            self._drop_step()
        finally:
            self._grads = grads

    monkeypatch.setattr(Expert, "abort", abort)
    assert "begins a step with" in first_failure(40, "await-point-trainer", "flapping")


def test_a_lease_that_is_lent_again_while_it_is_held_is_caught(monkeypatch: Patch) -> None:
    take = Ledger._take

    def taken(self: Ledger, pipeline: int) -> tuple[int, int]:
        first, end = take(self, pipeline)
        if pipeline == 1:
            self.next_batch = min(self.next_batch, first)
        return first, end

    monkeypatch.setattr(Ledger, "_take", taken)
    assert "twice" in first_failure(20, "joins", "slow")


def test_a_boot_epoch_that_is_taken_for_a_later_one_is_caught(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Absence, "is_former", lambda *_: False)
    assert "is believed" in first_failure(20, "restarts")


def test_a_gap_that_is_filled_twice_is_caught(monkeypatch: Patch) -> None:
    async def verdict(*_: object) -> Decision[bool]:
        return Decision(True, "planted")

    monkeypatch.setattr(Claim, "_verdict", verdict)
    assert "takes" in first_failure(20, "joins")
