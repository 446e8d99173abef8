"""Experts drain, come back and change stages under load: no step is aborted, nothing replayed.

`DISTQAT_SIM_SEEDS=2000 pytest tests/sim/test_drains.py` runs more seeds.
"""

import os

import pytest

from tests.sim.registry import find
from tests.sim.sim import run

NUM_SEEDS = max(2, int(os.environ.get("DISTQAT_SIM_SEEDS", "200")) // 100)


@pytest.mark.parametrize("seed", range(NUM_SEEDS))
@pytest.mark.parametrize("name", ["drains-with-spares", "drains-without-spares", "reassigns"])
def test_whoever_drains_or_moves_under_load_costs_no_step(name: str, seed: int) -> None:
    run(find(name), seed)
