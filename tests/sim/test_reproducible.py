"""The same seed gives the same run, and a planted bug is found and replayed by its seed."""

import os
import subprocess
import sys

import pytest

from tests.sim.__main__ import main
from tests.sim.registry import find, scenarios
from tests.sim.scenarios.counter import counter, forgetful_counter
from tests.sim.sim import Sim, SimFailure, assert_reproducible, run

FORGETFUL = "tests.sim.scenarios.counter:forgetful_counter"


def test_the_same_seed_gives_the_same_trace_and_another_seed_another() -> None:
    assert assert_reproducible(counter, 5).trace != run(counter, 6).trace


def test_a_scenario_that_draws_from_outside_is_found_out() -> None:
    async def leaky(sim: Sim) -> None:
        sim.note("same")
        sim.note(os.urandom(8).hex())

    with pytest.raises(SimFailure, match="differs between two runs of seed 1, from delivery 1"):
        assert_reproducible(leaky, 1)


@pytest.mark.parametrize("name", scenarios())
def test_every_registered_scenario_holds_for_its_first_seeds_and_is_reproducible(name: str) -> None:
    scenario = find(name)
    assert_reproducible(scenario, 0)
    for seed in range(1, 3):
        run(scenario, seed)


def test_a_counter_that_forgets_what_it_applied_is_caught() -> None:
    with pytest.raises(SimFailure, match="60 increments made the counter") as failure:
        run(forgetful_counter, 1)
    assert f"replay: python -m tests.sim --scenario {FORGETFUL} --seed 1" in str(failure.value)


def test_the_command_line_sweeps_seeds_and_names_those_that_fail(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--scenario", "counter", "--seeds", "0:3"]) == 0
    assert "counter: 3 seeds" in capsys.readouterr().out
    assert main(["--scenario", FORGETFUL, "--seeds", "4:6"]) == 1
    printed = capsys.readouterr()
    assert "FAILED with seeds 4 5" in printed.out
    assert "--seed 4" in printed.err


def test_the_command_line_shows_deliveries_and_lists_scenarios(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--scenario", "counter", "--seed", "1", "--trace"]) == 0
    assert "datagram 10.0.0.2:" in capsys.readouterr().out
    with pytest.raises(SimFailure):
        main(["--scenario", FORGETFUL, "--seed", "1", "--trace"])
    assert "datagram 10.0.0.2:" in capsys.readouterr().out
    assert main(["--list"]) == 0
    assert "counter" in capsys.readouterr().out.split()


def test_an_unknown_scenario_lists_those_there_are() -> None:
    with pytest.raises(LookupError, match=r"there are: .*counter"):
        find("nonsense")


def test_a_seed_replays_in_another_process_with_another_hash_salt() -> None:
    outputs = {
        subprocess.run(
            [sys.executable, "-m", "tests.sim", "--scenario", "counter", "--seed", "9"],
            env={**os.environ, "PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.partition("\n")[0]
        for salt in ("1", "2")
    }
    assert len(outputs) == 1
    assert run(counter, 9).trace in outputs.pop()
