"""Checkpoints of real daemons: kept, listed, resumed from after everything was killed, exported."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import Daemon, ctl, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(600)]

OUTER = 6
RUN = (
    *("--config", "digits", "--set", "diloco.inner_steps=25"),
    *("--set", f"diloco.outer_steps={OUTER}"),
)


class Fleet:
    """Daemons in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: list[Daemon] = []

    def start(self, name: str, *arguments: str) -> Daemon:
        self.daemons.append(Daemon(self.folder, name, *arguments))
        return self.daemons[-1]

    def first(self, name: str, kept: Path, *arguments: str) -> Daemon:
        mirror = (
            *("--param-mirror-checkpoint-dir", str(kept)),
            *("--param-mirror-refresh-every", "0.1", "--param-mirror-keep", "100"),
        )
        return self.start(name, "--role", "monitor,client", *RUN, *mirror, *arguments)

    def train(self, name: str, kept: Path, *arguments: str) -> Daemon:
        """Start a daemon that keeps checkpoints, and one expert for each stage."""
        first = self.first(name, kept, *arguments).wait_until_up()
        for index in range(2):
            self.start(f"{name}_e{index}", "--role", "expert", "--join", first.invite)
        return first

    def kill(self) -> None:
        for daemon in self.daemons:
            daemon.stop()


@pytest.fixture
def fleet(folder: Path) -> Iterator[Fleet]:
    fleet = Fleet(folder)
    yield fleet
    fleet.kill()


def steps_in(kept: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in kept.glob("step-*"))


def listed(folder: Path, *arguments: str) -> list[tuple[int, str]]:
    done = ctl("checkpoint", "list", "--json", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return [(c["outer_step"], c["state"]) for c in json.loads(done.stdout)["checkpoints"]]


def test_a_killed_run_is_resumed_and_ends_as_the_one_that_was_not(
    fleet: Fleet, folder: Path
) -> None:
    kept, copy = folder / "kept", folder / "copy"
    first = fleet.train("a", kept, "--param-mirror-enable")
    wait_for(lambda: steps_in(kept)[-1:] == [OUTER], 150, "the last outer step is kept")
    assert first.ask("checkpoint", "now")["text"].startswith(f"outer step {OUTER} is the newest")
    fleet.kill()
    # As if everything had been killed at the first one: what was trained after it is gone.
    begin = steps_in(kept)[0]
    assert 1 <= begin < OUTER
    shutil.copytree(kept / f"step-{begin:012d}", copy / f"step-{begin:012d}")

    refused = fleet.first("b", copy, "--param-mirror-enable")
    assert refused.exit_code() == 78
    assert f"holds a checkpoint of run digits at outer step {begin}" in refused.text
    again = fleet.train("c", copy, "--resume")
    wait_for(lambda: again.ask("run", "show")["finished"], 150, "the resumed run is finished")
    batches = again.ask("run", "show")["batches"]
    assert batches["lost"] == batches["duplicated"] == 0
    assert batches["committed"] == 25 * OUTER
    again.ask("checkpoint", "now")
    assert steps_in(copy)[-1] == OUTER

    # One replica per stage: the same bits, of parameters and of both optimizers.
    last = f"step-{OUTER:012d}"
    for stage in ("front", "back"):
        ours, theirs = (root / last / f"{stage}.safetensors" for root in (copy, kept))
        assert ours.read_bytes() == theirs.read_bytes()
    assert listed(folder, str(copy)) == [(step, "ok") for step in reversed(steps_in(copy))]
    done = ctl("checkpoint", "export", "model.st", "--from", "copy", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert f"outer step {OUTER} of digits" in done.stdout
