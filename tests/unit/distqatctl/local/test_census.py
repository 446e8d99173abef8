import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from distqatctl.local.census import Census
from distqatctl.local.children import MARKER_VARIABLE


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    env = {**os.environ, MARKER_VARIABLE: "test-marker"}
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=env)
    yield process
    process.kill()
    process.wait()
    assert process.stdin is not None
    process.stdin.close()


def test_children_are_counted_at_their_peak(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    census = Census("other", shared_memory=tmp_path)
    census.count()
    assert census.peak >= 1
    peak = census.peak
    sleeper.kill()
    sleeper.wait()
    census.count()
    assert census.peak == peak


def test_a_marked_process_is_found_although_it_was_never_counted(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    census = Census("test-marker", shared_memory=tmp_path)
    # The environment is there once the program has been loaded.
    while MARKER_VARIABLE not in psutil.Process(sleeper.pid).environ():
        pass
    (left,) = census.leftovers(tmp_path)
    assert left.startswith(f"process {sleeper.pid} (")
    census.kill_survivors()
    assert not psutil.pid_exists(sleeper.pid)
    assert census.leftovers(tmp_path) == ()


def test_new_shared_memory_that_nobody_uses_is_a_leftover(tmp_path: Path) -> None:
    (tmp_path / "before").write_text("x")
    census = Census("none", shared_memory=tmp_path)
    (tmp_path / "left").write_text("x")
    with (tmp_path / "in_use").open("w"):
        assert census.leftovers(tmp_path / "nowhere") == (f"shared memory {tmp_path / 'left'}",)


def test_socket_files_are_leftovers(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(state / "api.sock"))
    census = Census("none", shared_memory=tmp_path / "nowhere")
    assert census.leftovers(state) == (f"socket {state / 'api.sock'}",)
