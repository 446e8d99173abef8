"""No round of one stage waits for one of another; see `tests/sim/scenarios/standing_in.py`."""

import pytest

from tests.sim.registry import find
from tests.sim.sim import run


@pytest.mark.parametrize("seed", [0, 10, 11, 13])
def test_a_pipeline_with_a_spare_in_it_never_stands_still(seed: int) -> None:
    """Seeds in which both pipelines stood still for half of averaging_timeout.

    In 10 spares were behind for ever besides, and then none got the newer state.
    """
    run(find("spares-stand-in"), seed)
