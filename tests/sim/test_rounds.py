"""Outer steps hold for a thousand seeds; ROUNDS_SEEDS=10000 tries more."""

import os

import pytest

from tests.sim.registry import find
from tests.sim.sim import assert_reproducible, run

NUM_SEEDS = int(os.environ.get("ROUNDS_SEEDS", "1000"))
NUM_BLOCKS = 10


@pytest.mark.slow
@pytest.mark.timeout(0 if NUM_SEEDS > 1000 else 300)
@pytest.mark.parametrize("block", range(NUM_BLOCKS))
def test_replicas_take_the_same_steps_whatever_fails(block: int) -> None:
    steps = [
        run(find("rounds"), seed).value["steps"] for seed in range(block, NUM_SEEDS, NUM_BLOCKS)
    ]
    assert sum(steps) > 3 * len(steps), "hardly any step was taken: the faults hide everything"


def test_the_same_seed_is_the_same_run() -> None:
    assert_reproducible(find("rounds"), 12)
