"""The client's duty changes hands in simulated swarms; see `tests/sim/scenarios/takeover.py`."""

import os

import pytest

from tests.sim.registry import find
from tests.sim.sim import SimFailure, run

NAMES = ("client-dies", "client-restarts", "clients-cut-off", "monitor-restarts")
NUM_SEEDS = max(5, int(os.environ.get("DISTQAT_SIM_SEEDS", "200")) // 40)


@pytest.mark.parametrize("name", NAMES)
def test_the_run_goes_on_to_its_end_whatever_happens_to_clients(name: str) -> None:
    failures = []
    for seed in range(NUM_SEEDS):
        try:
            run(find(name), seed)
        except SimFailure as failure:
            failures.append(str(failure))
    assert not failures, "\n".join(failures)
