"""Bugs planted into the ballots of outer steps: the simulation of rounds must catch each.

The limits are what is promised; the numbers beside them are the first seed that catches it now.
"""

import pytest

from distqatd.averaging import ballots, ledger, proposer, round
from distqatd.averaging.averager import Averager
from distqatd.averaging.ballots import Accept, Accepted, Electorate, Reaction
from distqatd.averaging.keeping import KeptMeans
from distqatd.averaging.proposer import Proposer, Stage
from distqatd.averaging.reduce import ReduceTable
from tests.sim.registry import find
from tests.sim.rounds.replica import SlowDisk
from tests.sim.sim import SimFailure, run

Patch = pytest.MonkeyPatch


def first_failure(num_seeds: int) -> str:
    """Return what the first failing seed says; fail if none does."""
    for seed in range(num_seeds):
        try:
            run(find("rounds"), seed)
        except SimFailure as failure:
            print(f"caught by seed {seed}: {str(failure).splitlines()[0]}")
            return str(failure)
    return pytest.fail(f"rounds hold for {num_seeds} seeds: the planted bug was not caught")


def test_a_contribution_that_counts_twice_when_it_arrives_twice_is_caught(
    monkeypatch: Patch,
) -> None:
    add = ReduceTable.add

    def adding(self: ReduceTable, member, chunk, values) -> bool:
        arrived = self._arrived[chunk]
        if member in arrived and arrived[member].shape == values.shape:
            arrived[member] = arrived[member] + values
            return False
        return add(self, member, chunk, values)

    monkeypatch.setattr(ReduceTable, "add", adding)
    monkeypatch.setattr(ReduceTable, "has", lambda *_: False)
    assert "wrong mean" in first_failure(100)


def test_a_step_that_is_applied_twice_is_caught(monkeypatch: Patch) -> None:
    take = Averager._take_step

    async def again(self, seat, key, contribution):
        for chosen in seat.chosen.values():
            if kept := seat.kept.find(chosen.value):
                return kept.committed(chosen.value, 0, 0.0)
        return await take(self, seat, key, contribution)

    monkeypatch.setattr(Averager, "_take_step", again)
    monkeypatch.setattr(KeptMeans, "keep_only", lambda *_: None)
    monkeypatch.setattr(KeptMeans, "forget", lambda *_: None)
    assert "takes" in first_failure(20)


def test_a_commit_without_a_quorum_is_caught(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Electorate, "has_quorum", lambda _, votes: bool(votes))
    first_failure(200)


def test_a_voter_that_forgets_what_it_accepted_is_caught(monkeypatch: Patch) -> None:
    react = ballots.react

    def forgetful(state, event) -> Reaction:
        if isinstance(event, Accept) and not isinstance(
            react(state, event).answer, ballots.Refused
        ):
            return Reaction(state, Accepted(), "forgotten")
        return react(state, event)

    monkeypatch.setattr(ledger, "react", forgetful)
    first_failure(1000)


def test_a_voter_whose_disk_loses_what_it_wrote_is_caught(monkeypatch: Patch) -> None:
    async def lost(*_: object) -> None:
        """Write nothing."""

    monkeypatch.setattr(SlowDisk, "write", lost)
    first_failure(1000)


def test_a_leader_that_does_not_finish_what_was_accepted_is_caught(monkeypatch: Patch) -> None:
    prepared = proposer._prepared

    def stubborn(state: Proposer) -> Proposer:
        state = prepared(state)
        return (
            state
            if state.stage is Stage.PREPARING
            else proposer.replace(state, stage=Stage.FREE, value=None)
        )

    monkeypatch.setattr(proposer, "_prepared", stubborn)
    first_failure(1000)


def test_a_leader_that_does_not_ask_for_promises_is_caught(monkeypatch: Patch) -> None:
    def hasty(*args) -> Proposer:
        return Proposer(*args, stage=Stage.FREE)

    monkeypatch.setattr(round, "Proposer", hasty)
    first_failure(1000)
