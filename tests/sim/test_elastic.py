"""A thousand swarms in trouble: no batch counts twice, none is lost, and everything goes on.

`DISTQAT_SIM_SEEDS=10000 pytest tests/sim/test_elastic.py` runs more seeds.
"""

import os
import subprocess
import sys

import pytest

from tests.sim.elastic.draw import FAMILIES, NUM_POINTS, draw
from tests.sim.registry import find
from tests.sim.sim import assert_reproducible, run

NUM_SEEDS = int(os.environ.get("DISTQAT_SIM_SEEDS", "1000"))
CHUNK = 25
S_PER_SEED = 4.0
"""Ten times what a seed takes: other tests may share the cores."""


@pytest.mark.timeout(CHUNK * S_PER_SEED)
@pytest.mark.parametrize("first", range(0, NUM_SEEDS, CHUNK))
def test_swarms_in_any_trouble_lose_no_batch_and_count_none_twice(first: int) -> None:
    end = min(first + CHUNK, NUM_SEEDS)
    command = [sys.executable, "-m", "tests.sim", "--scenario", "elastic"]
    sweep = subprocess.run(
        [*command, "--seeds", f"{first}:{end}", "--jobs", "1"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(sweep.stdout)
    assert sweep.returncode == 0, sweep.stdout


def test_a_thousand_seeds_crash_every_role_at_every_await_point() -> None:
    plans = [draw(seed) for seed in range(1000)]
    points = {(f.machines[0], f.await_point) for p in plans[::2] for f in p.faults}
    wanted = {(f"{role}.0", n) for role, most in NUM_POINTS.items() for n in range(1, most + 1)}
    assert wanted <= points
    assert {plan.family for plan in plans[1::2]} == set(FAMILIES)


def test_the_same_seed_gives_the_same_trace_and_another_seed_another() -> None:
    elastic = find("elastic")
    assert assert_reproducible(elastic, 3).trace != run(elastic, 19).trace
