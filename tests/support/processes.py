"""Real daemons on loopback, for integration tests: started, watched and cleaned up."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "WANDB_SILENT": "true"}


def wait_for(condition: Callable[[], object], within_s: float, what: str) -> None:
    """Poll until `condition()` is true; deadlines here are generous, never a measurement."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {within_s} s in vain: {what}"
        time.sleep(0.1)


def ctl(*arguments: str, cwd: Path, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Run `distqatctl` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "distqatctl", *arguments],
        cwd=cwd,
        env=ENV,
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def start_ctl(*arguments: str, cwd: Path, output: Path) -> subprocess.Popen[str]:
    """Start `distqatctl` with its output in a file."""
    with output.open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "distqatctl", *arguments],
            cwd=cwd,
            env=ENV,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
        )


def processes_in(folder: Path) -> list[psutil.Process]:
    """Return the living processes whose working directory is `folder`."""
    return [process for process in psutil.process_iter() if _lives_in(process, folder)]


def _lives_in(process: psutil.Process, folder: Path) -> bool:
    try:
        alive = process.status() != psutil.STATUS_ZOMBIE
        return alive and Path(process.cwd()) == folder
    except (psutil.Error, OSError):
        return False


class Daemon:
    """One `distqatd` process with its own state folder under `folder`."""

    def __init__(self, folder: Path, name: str, *arguments: str) -> None:
        self.state = folder / name
        self.log = folder / f"{name}.txt"
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "distqatd", "--host", "127.0.0.1", "--port", "0"),
                    *("--api-port", "-1", "--state-dir", str(self.state), *arguments),
                ],
                cwd=folder,
                env=ENV,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    @property
    def text(self) -> str:
        """Return what it printed and logged so far."""
        return self.log.read_text()

    def wait_until_up(self) -> "Daemon":
        """Wait for its greeting."""
        wait_for(lambda: "Ctrl-C " in self.text or self.ended, 90, self.log.name)
        assert not self.ended, self.text
        return self

    @property
    def ended(self) -> bool:
        """Return whether the process has ended."""
        return self.process.poll() is not None

    @property
    def port(self) -> int:
        """Return the port it listens on."""
        match = re.search(r"listening on port (\d+)", self.text)
        assert match, self.text
        return int(match[1])

    @property
    def invite(self) -> str:
        """Return the invite it printed."""
        match = re.search(r"dq1:[a-z0-9]+", self.text)
        assert match, self.text
        return match[0]

    def exit_code(self, within_s: float = 90) -> int:
        """Wait for the end and return the exit code."""
        return self.process.wait(within_s)

    def ask(self, *command: str) -> dict:
        """Return the JSON that `distqatctl COMMAND` prints about this daemon."""
        socket = str(self.state / "api.sock")
        done = ctl(*command, "--json", "--socket", socket, cwd=self.state.parent)
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def stop(self) -> None:
        """Kill it if it lives."""
        if not self.ended:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(30)
