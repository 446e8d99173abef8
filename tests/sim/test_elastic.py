"""A thousand swarms in trouble: no batch counts twice, none is lost, and everything goes on.

`DISTQAT_SIM_SEEDS=10000 pytest tests/sim/test_elastic.py` runs more seeds.
"""

import os
import subprocess
import sys
from itertools import pairwise

import pytest

from tests.sim.elastic.draw import FAMILIES, NUM_POINTS, draw
from tests.sim.registry import find
from tests.sim.sim import SimFailure, assert_reproducible, run

NUM_SEEDS = int(os.environ.get("DISTQAT_SIM_SEEDS", "1000"))
CHUNK = 25
S_PER_SEED = 4.0
"""Ten times what a seed takes: other tests may share the cores."""

OPEN_BUGS = (599,)
"""A stage that hears nothing while the run ends misses its last decided step, which counts as
committed: no round comes before which it would ask how that step ended. Its anchor is not touched.
It needs the overlap of rounds and inner steps, where the stages of a route end one step apart."""


@pytest.mark.parametrize("seed", OPEN_BUGS)
@pytest.mark.xfail(strict=True, raises=SimFailure)
def test_a_stage_that_hears_nothing_at_the_end_applies_the_last_step(seed: int) -> None:
    run(find("elastic"), seed)


def chunks() -> list[tuple[int, int]]:
    """Return ranges of seeds that hold: all but those of OPEN_BUGS."""
    cuts = {*range(0, NUM_SEEDS, CHUNK), *OPEN_BUGS, *(seed + 1 for seed in OPEN_BUGS), NUM_SEEDS}
    edges = sorted(cut for cut in cuts if cut <= NUM_SEEDS)
    return [(first, end) for first, end in pairwise(edges) if first not in OPEN_BUGS]


@pytest.mark.timeout(CHUNK * S_PER_SEED)
@pytest.mark.parametrize(("first", "end"), chunks())
def test_swarms_in_any_trouble_lose_no_batch_and_count_none_twice(first: int, end: int) -> None:
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
