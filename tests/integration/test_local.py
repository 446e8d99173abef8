"""`distqatctl local` with real processes: fake daemons that speak the real API."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from distqatd.api.local_schema import LocalReport

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


class Local:
    """Starts runs in one folder and looks for their processes."""

    def __init__(self, folder: Path, state_parent: Path) -> None:
        self.folder = folder
        self.state_parent = state_parent
        self.report_file = folder / "report.json"

    def start(self, wrong: str = "", *, timeout_s: float = 60) -> subprocess.Popen[str]:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "FAKE_DAEMON": wrong}
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.support.run_local"),
                *(str(self.report_file), str(timeout_s)),
            ],
            cwd=self.folder,
            env={**env, "TMPDIR": str(self.state_parent)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, wrong: str = "", *, timeout_s: float = 60) -> tuple[int, str, str]:
        process = self.start(wrong, timeout_s=timeout_s)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def report(self) -> LocalReport:
        return LocalReport.model_validate_json(self.report_file.read_text())

    def processes(self) -> list[psutil.Process]:
        return [p for p in psutil.process_iter() if self._is_here(p)]

    def _is_here(self, process: psutil.Process) -> bool:
        try:
            is_alive = process.status() != psutil.STATUS_ZOMBIE
            return is_alive and process.cwd() == str(self.folder)
        except psutil.Error:
            return False

    def wait_until_training(self) -> None:
        log = self.folder / "logs" / "fake" / "trainer_1.log"
        wait_for(lambda: log.exists() and "started" in log.read_text(), 20)
        wait_for(lambda: any(self.state_parent.rglob("client_0/api.sock")), 20)


def wait_for(condition: Callable[[], bool], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    state_parent = Path(tempfile.mkdtemp(prefix="dqt"))
    runs = Local(tmp_path, state_parent)
    yield runs
    for process in runs.processes():
        process.kill()
    shutil.rmtree(state_parent)


def test_a_run_ends_with_a_report_and_nothing_behind_it(local: Local) -> None:
    code, out, err = local.run()
    assert code == 0, err
    assert "accuracy 96.0%" in out
    assert "outer step 4/4" in err
    report = local.report()
    assert report.processes == 8
    assert report.leftovers == ()
    assert report.batches.committed == 80
    assert [stage.name for stage in report.stages] == ["front", "back"]
    assert all(stage.replicas_identical for stage in report.stages)
    assert report.time_to_first_step_s is not None
    assert 0 < report.time_to_first_step_s < report.wall_s
    assert local.processes() == []
    assert list(local.state_parent.iterdir()) == []


def test_a_daemon_that_dies_early_is_named_with_its_last_words(local: Local) -> None:
    code, _, err = local.run("die:expert_1")
    assert code == 69
    assert "expert_1 ended after" in err
    assert r"none of the 1 peers answered\x1b[2J" in err
    assert local.processes() == []
    assert list(local.state_parent.iterdir()) == []


def test_a_monitor_that_dies_early_does_not_keep_us_waiting(local: Local) -> None:
    code, _, err = local.run("die:monitor_0")
    assert code == 69
    assert "monitor_0 ended" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything_within_seconds(local: Local, number: signal.Signals) -> None:
    process = local.start("endless:client_0")
    local.wait_until_training()
    began = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=10)
    assert time.monotonic() - began < 5
    assert process.returncode == 130
    assert number.name in err
    assert "left behind" not in err
    assert local.processes() == []
    assert list(local.state_parent.iterdir()) == []


def test_a_daemon_that_does_not_listen_is_killed(local: Local) -> None:
    code, out, _ = local.run("stubborn:expert_0")
    assert code == 0
    assert "left behind none" in out
    assert local.processes() == []


def test_a_second_signal_kills_at_once(local: Local) -> None:
    process = local.start("endless:client_0,stubborn:expert_0")
    local.wait_until_training()
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    process.communicate(timeout=10)
    assert time.monotonic() - began < 3
    assert process.returncode == 130
    assert local.processes() == []


def test_kill_9_of_local_itself_leaves_nothing_running(local: Local) -> None:
    process = local.start("endless:client_0")
    local.wait_until_training()
    process.kill()
    process.communicate()
    wait_for(lambda: not local.processes(), 5)


def test_the_next_run_removes_what_a_killed_one_left_on_disk(local: Local) -> None:
    process = local.start("endless:client_0")
    local.wait_until_training()
    process.kill()
    process.communicate()
    wait_for(lambda: not local.processes(), 5)
    assert len(list(local.state_parent.iterdir())) == 1
    assert local.run()[0] == 0
    assert list(local.state_parent.iterdir()) == []


def test_a_process_that_outlives_its_daemon_is_found_and_killed(local: Local) -> None:
    code, _, _ = local.run("orphan:monitor_0")
    assert code == 0
    assert local.report().processes == 9
    assert local.processes() == []


def test_a_socket_left_behind_is_reported(local: Local) -> None:
    code, out, _ = local.run("litter:expert_0")
    assert code == 3
    (left,) = local.report().leftovers
    assert left.endswith("expert_0/left.sock")
    assert "▲ left behind: socket" in out


def test_replicas_that_differ_are_a_degraded_run(local: Local) -> None:
    code, out, _ = local.run("differ:client_0")
    assert code == 3
    assert "front: replicas differ" in out


def test_a_run_that_takes_too_long_is_ended(local: Local) -> None:
    code, _, err = local.run("endless:client_0", timeout_s=2)
    assert code == 7
    assert "--timeout" in err or "did not end within 2 s" in err
    assert local.processes() == []


def test_two_runs_do_not_share_a_log_folder(local: Local) -> None:
    first = local.start("endless:client_0")
    local.wait_until_training()
    code, _, err = local.run()
    assert code == 8
    assert "another distqatctl local is using logs/fake" in err
    assert first.poll() is None
    first.terminate()
    first.communicate(timeout=10)
