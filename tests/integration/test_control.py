"""A machine is drained, resumed and stopped while the run goes on, with real processes."""

import json
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import Daemon, ctl, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(600)]

LONG_RUN = """
experiment_prefix: control
device: cpu
diloco: {inner_steps: 50, outer_steps: 100000, batch_size_per_step: 8}
model_pipeline:
  pipeline:
    - {model_name: mlp.front, sizes: [64, 8, 8, 10]}
    - {model_name: mlp.back, sizes: [64, 8, 8, 10]}
"""


class Machines:
    """The machine that made the swarm, and three volunteers: the first stage has a spare."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: list[Daemon] = []
        run = folder / "run.yaml"
        run.write_text(LONG_RUN)
        self.first = self._start("first", "--role", "monitor,client", "--config", str(run))
        self.first.wait_until_up()
        join = ("--role", "expert", "--join", self.first.invite)
        self.one = self._start("one", *join, "--stage", "front")
        self.two = self._start("two", *join, "--stage", "front")
        self._start("back", *join, "--stage", "back")

    def _start(self, name: str, *arguments: str) -> Daemon:
        self.daemons.append(Daemon(self.folder, name, *arguments))
        return self.daemons[-1]

    def stop(self) -> None:
        for daemon in self.daemons:
            daemon.stop()

    def on(self, machine: Daemon, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of distqatctl against one machine's daemon."""
        return ctl(*command, "--socket", str(machine.state / "api.sock"), cwd=self.folder)

    def name(self, machine: Daemon) -> str:
        return machine.ask("status")["peer"]["nickname"]

    def replicas(self) -> list[int]:
        return [stage["num_replicas"] for stage in self.first.ask("status")["stages"]]

    def committed(self) -> int:
        return self.first.ask("run", "show")["batches"]["committed"]

    def wait_until_training(self, replicas: list[int]) -> None:
        wait_for(lambda: self.replicas() == replicas, 300, f"replicas {replicas}")
        before = self.committed()
        wait_for(lambda: self.committed() > before + 50, 300, "it trains")


@pytest.fixture
def machines() -> Iterator[Machines]:
    # A short path: unix sockets have at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="dqc")).resolve()
    swarm = Machines(folder)
    yield swarm
    swarm.stop()
    shutil.rmtree(folder, ignore_errors=True)


def test_machines_come_and_go_by_command_and_by_signal_and_no_batch_notices(
    machines: Machines,
) -> None:
    first, one, two = machines.first, machines.one, machines.two
    machines.wait_until_training([2, 1])
    name = machines.name(two)

    not_allowed = machines.on(one, "drain", name)
    assert not_allowed.returncode == 6, not_allowed.stderr
    assert "operator.key" in not_allowed.stderr
    assert machines.on(first, "drain", "nobody").returncode == 5

    drained = machines.on(first, "drain", name, "--deadline", "90", "--json")
    assert drained.returncode == 0, drained.stderr
    assert json.loads(drained.stdout)["state"] == "done"
    assert two.ask("status")["peer"]["state"] == "drained"
    wait_for(lambda: machines.replicas() == [1, 1], 60, "one replica is left")

    refused = machines.on(first, "drain", machines.name(one))
    assert refused.returncode == 8, refused.stderr
    assert "last serving replica" in refused.stderr

    assert machines.on(first, "resume", name).returncode == 0
    machines.wait_until_training([2, 1])
    told = json.loads(machines.on(first, "why", name, "--json").stdout)
    assert {"placement", "drain"} <= {reason["kind"] for reason in told["reasons"]}
    assert machines.on(one, "ping", machines.name(first)).returncode == 0

    two.process.send_signal(signal.SIGTERM)
    assert two.exit_code(60) == 0
    assert two.text.count("expert.drained") == 2
    assert "sessions_cut=1" not in two.text
    machines.wait_until_training([1, 1])
    batches = first.ask("run", "show")["batches"]
    # Replays are counted in the simulator: here a busy machine can be silent for too long.
    assert (batches["lost"], batches["duplicated"]) == (0, 0)
    assert one.process.poll() is None
