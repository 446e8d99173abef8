"""Whole daemons join, train, take outer steps and leave, over many seeds.

`DISTQAT_SIM_SEEDS=10000 pytest tests/sim` runs more seeds, of `test_elastic` too.
"""

import os
import time

import pytest

from tests.sim.registry import find
from tests.sim.sim import SimFailure, assert_reproducible, run

NUM_SEEDS = max(40, int(os.environ.get("DISTQAT_SIM_SEEDS", "1000")) // 25)
CHUNK = 20
CPU_S_PER_SEED = 2.0
"""Generous: about 0.4 on an idle machine; other tests may share its cores."""

CHURN = ("expert-dies", "gap-filled", "late-joiner", "trainer-dies", "expert-restarts")
CHURN_SEEDS = max(8, NUM_SEEDS // 5)


def sweep(name: str, seeds: range) -> list[str]:
    """Run a scenario over seeds; return what the failing ones say."""
    failures = []
    for seed in seeds:
        try:
            run(find(name), seed)
        except SimFailure as failure:
            failures.append(str(failure))
    return failures


@pytest.mark.parametrize(
    "seeds",
    [range(first, min(first + CHUNK, NUM_SEEDS)) for first in range(0, NUM_SEEDS, CHUNK)],
    ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}",
)
def test_join_train_outer_steps_and_leave_hold_for_every_seed(
    seeds: range, record_property: object
) -> None:
    began_s = time.process_time()
    failures = sweep("train", seeds)
    mean_s = (time.process_time() - began_s) / len(seeds)
    print(f"{mean_s:.2f} CPU-s per seed")
    record_property("cpu_s_per_seed", round(mean_s, 3))
    assert not failures, "\n".join(failures)
    assert mean_s < CPU_S_PER_SEED


@pytest.mark.parametrize("name", CHURN)
def test_peers_that_die_or_come_late_lose_nothing(name: str) -> None:
    failures = sweep(name, range(CHURN_SEEDS))
    assert not failures, "\n".join(failures)


def test_the_same_seed_gives_the_same_trace_and_another_seed_another() -> None:
    train = find("train")
    assert assert_reproducible(train, 11).trace != run(train, 12).trace
