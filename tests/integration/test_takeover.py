"""Two clients, real processes: the holder of the duty is killed, the run goes on and ends."""

import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.support.processes import Daemon, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(300)]

CONFIG = (
    *("--config", "digits"),
    *("--set", "diloco.outer_steps=8", "--set", "diloco.inner_steps=25"),
)
NUM_BATCHES = 8 * 25


def test_the_holder_is_killed_and_the_other_client_ends_the_run_with_nothing_lost(start):
    first = start("first", "--role", "monitor,expert", *CONFIG).wait_until_up()
    join = ("--join", first.invite)
    trainer = start("second", "--role", "expert,trainer", *join)
    holder = start("holder", "--role", "client", *join)
    wait_for(lambda: "duty.taken" in holder.text, 120, "the first client takes the duty")
    standby = start("standby", "--role", "client", *join)
    wait_for(lambda: "duty.stands_by" in standby.text, 120, "the second client stands by")
    wait_for(lambda: "trainer.first_step" in trainer.text, 120, "training has begun")
    holder.process.send_signal(signal.SIGKILL)
    killed_at = time.monotonic()
    wait_for(lambda: "duty.taken" in standby.text, 10, "the second client takes over")
    print(f"taken over after {time.monotonic() - killed_at:.1f} s")
    assert "run.finished" not in holder.text
    assert not torch_in(standby)
    wait_for(lambda: "run.finished" in standby.text, 120, "the run is finished")
    # What a daemon shows of the run it reads from the swarm's records, a moment later.
    wait_for(lambda: standby.ask("run", "show")["finished"], 30, "everybody may know")
    run, status = standby.ask("run", "show"), standby.ask("status")
    assert (run["batches"]["lost"], run["batches"]["duplicated"]) == (0, 0)
    assert run["batches"]["committed"] >= NUM_BATCHES
    assert run["eval"]["accuracy"] > 0.8
    assert status["client"]["term"] == 2
    assert status["client"]["peer_id"] == status["peer"]["peer_id"]
    assert trainer.text.count("trainer.started") == 1  # it ran on through the takeover


def torch_in(daemon: Daemon) -> list[str]:
    """Return the files of torch that a daemon has loaded."""
    loaded = {Path(area.path).name for area in psutil.Process(daemon.process.pid).memory_maps()}
    return [name for name in loaded if "torch" in name]
