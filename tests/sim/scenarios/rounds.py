"""Outer steps alone, with one to eight replicas, while machines and links fail.

The schedule of a seed is drawn by `tests.sim.rounds.draw`; `tests.sim.rounds.ledger` says what
must hold: one anchor for each outer step, every pseudo-gradient counted once at most, and a step
further within 60 virtual seconds after the last fault.
"""

from tests.sim.registry import scenario
from tests.sim.rounds.run import run_seed

rounds = scenario("rounds")(run_seed)
