"""Outer steps of four replicas in processes of their own; in every second one a replica is killed.

The victim and the moment are drawn: SIGKILL at a random time of the round, before, during or after
the exchange, the leader or another one. The others must commit the same bits, with or without
what the dead one had brought; it comes back with its promises and the state of another one, and
is in the next round again. `after_kill` is the time from the signal until the last survivor has
committed; a kill that comes when all have committed counts as 0.
"""

import os
import signal
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from distqatd.base.rng import Rng, seeded_rng
from tests.bench import children
from tests.bench.measure import p50
from tests.bench.report import Report

NUM = 4
NUM_VALUES = 1_000_000
ROUNDS = 100
LIMIT_S = 1.0
"""What a commit may take after a kill, or three median rounds if these are longer."""


@dataclass
class Tally:
    """What all rounds came to."""

    calm_s: list[float] = field(default_factory=list)
    after_kill_s: list[float] = field(default_factory=list)
    elements_apart: int = 0
    aborted: int = 0
    fetched: int = 0
    without_victim: int = 0


class Group:
    """The replicas, and where they keep what they must not forget."""

    def __init__(self, folder: Path, num_values: int) -> None:
        self._folder = folder
        self._num_values = num_values
        self._ends = [self._start(rank) for rank in range(NUM)]
        self._meet()

    def _start(self, rank: int) -> children.Child:
        own = self._folder / str(rank)
        own.mkdir(exist_ok=True)
        return children.ours("rounds", str(rank), str(NUM), str(self._num_values), str(own))

    def _meet(self) -> None:
        addresses = [("127.0.0.1", end.ready["port"]) for end in self._ends]
        for end in self._ends:
            end.ask("meet", addresses=addresses)

    def take(self, tally: Tally) -> None:
        """Take a step that nobody disturbs."""
        began = time.monotonic()
        for end in self._ends:
            end.begin("take")
        self._check(range(NUM), tally, self._answers(range(NUM)))
        tally.calm_s.append(self._last - began)

    def take_and_kill(self, victim: int, after_s: float, tally: Tally) -> None:
        """Take a step in which one replica dies, and bring it back."""
        for end in self._ends:
            end.begin("take")
        for end in self._ends:
            end.answer()  # it begins
        time.sleep(after_s)
        killed_at = time.monotonic()
        os.kill(self._ends[victim].pid, signal.SIGKILL)
        others = [rank for rank in range(NUM) if rank != victim]
        answers = [self._ends[rank].answer() for rank in others]
        self._check(others, tally, answers)
        tally.after_kill_s.append(max(0.0, self._last - killed_at))
        members = max(answer.get("members", 0) for answer in answers)
        tally.without_victim += members == NUM - 1
        self._bring_back(victim, others[0])

    def _answers(self, ranks: Any) -> list[dict[str, Any]]:
        for rank in ranks:
            self._ends[rank].answer()  # it begins
        return [self._ends[rank].answer() for rank in ranks]

    def _check(self, ranks: Any, tally: Tally, answers: list[dict[str, Any]]) -> None:
        tally.aborted += sum(len(answer["aborted"]) for answer in answers)
        taken = [rank for rank, answer in zip(ranks, answers, strict=True) if answer["members"]]
        if not taken:
            raise RuntimeError(f"nobody took the step: {answers}")
        self._last = max(answer["ended"] for answer in answers if answer["members"])
        for index, rank in enumerate(ranks):
            if rank not in taken:
                tally.fetched += 1
                answers[index] = self._fetch(rank, taken[0])
        if len({(answer["step"], answer["digest"]) for answer in answers}) > 1:
            tally.elements_apart += self._count_apart(ranks)

    def _count_apart(self, ranks: Any) -> int:
        anchors = []
        for rank in ranks:
            path = self._folder / f"{rank}.pt"
            self._ends[rank].ask("save", path=str(path))
            anchors.append(torch.load(path, weights_only=True)["anchor"])
        return int(sum((anchor != anchors[0]).sum() for anchor in anchors[1:]))

    def _fetch(self, rank: int, donor: int) -> dict[str, Any]:
        """Give a replica the state of another one."""
        path = self._folder / "state.pt"
        self._ends[donor].ask("save", path=str(path))
        where: dict[str, Any] = self._ends[rank].ask("load", path=str(path))
        return where

    def _bring_back(self, victim: int, donor: int) -> None:
        self._ends[victim].__exit__()
        self._ends[victim] = self._start(victim)
        self._fetch(victim, donor)
        self._meet()

    def close(self) -> None:
        """End all processes."""
        for end in self._ends:
            end.__exit__()


def run(report: Report, *, quick: bool, peer_python: str | None) -> None:
    """Measure everything and fill the report; nobody else has such rounds to compare with."""
    rng = seeded_rng("bench", "rounds")
    num_rounds = 10 if quick else ROUNDS
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        group = Group(folder, NUM_VALUES)
        stack.callback(group.close)
        tally = _all_rounds(group, num_rounds, rng)
    median_s = p50(tally.calm_s)
    limit_s = max(LIMIT_S, 3 * median_s)
    what = f"{NUM} replicas, {NUM_VALUES * 4e-6:.0f} MB"
    report.row(what, "no kill", rounds=len(tally.calm_s), p50_s=median_s, max_s=max(tally.calm_s))
    report.row(
        what,
        "a kill in the round",
        rounds=len(tally.after_kill_s),
        p50_s=p50(tally.after_kill_s),
        max_s=max(tally.after_kill_s),
    )
    report.total("rounds", num_rounds)
    report.total("kills", len(tally.after_kill_s))
    report.total("committed_without_the_victim", tally.without_victim)
    report.total("aborted_calls", tally.aborted)
    report.total("left_behind", tally.fetched)
    report.total("elements_apart", tally.elements_apart)
    report.total("median_round_s", median_s)
    report.ratio("after_kill_max_vs_limit", max(tally.after_kill_s) / limit_s)


def _all_rounds(group: Group, num_rounds: int, rng: Rng) -> Tally:
    tally = Tally()
    warm = Tally()
    group.take(warm)  # makes the links
    for index in range(num_rounds):
        if index % 2 == 0:
            group.take(tally)
            continue
        after_s = rng.uniform(0, p50(tally.calm_s))
        group.take_and_kill(rng.randrange(NUM), after_s, tally)
    return tally
