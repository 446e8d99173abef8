import subprocess
import sys
import time
from pathlib import Path

import pytest

from distqatctl.errors import CommandFailed
from distqatctl.local.children import (
    MARKER_VARIABLE,
    Child,
    describe_exit,
    environment,
    raise_if_dead,
    tail,
)


def _ended(tmp_path: Path, code: int) -> Child:
    process = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"])
    process.wait()
    return Child("expert_0", process, tmp_path / "expert_0.log", time.perf_counter())


def test_a_daemon_does_not_inherit_the_users_own_swarm() -> None:
    base = {"PATH": "/bin", "DISTQAT_JOIN": "a", "INITIAL_PEERS": "b", "NOTIFY_SOCKET": "c"}
    env = environment(base, "m1")
    assert env == {"PATH": "/bin", "OMP_NUM_THREADS": "1", MARKER_VARIABLE: "m1"}


def test_the_marker_is_not_taken_for_a_configuration_variable() -> None:
    assert not MARKER_VARIABLE.startswith("DISTQAT_")


@pytest.mark.parametrize(("code", "expected"), [(69, 69), (78, 78), (1, 1), (3, 1), (0, 1)])
def test_a_dead_daemon_ends_the_run_with_a_fitting_code(
    tmp_path: Path, code: int, expected: int
) -> None:
    child = _ended(tmp_path, code)
    child.log_file.write_text("first\nlast words\n")
    with pytest.raises(CommandFailed, match=f"exit code {code}\n  | first\n  | last words") as got:
        raise_if_dead([child])
    assert got.value.code == expected


def test_after_the_run_a_daemon_may_end_by_itself_but_not_fail(tmp_path: Path) -> None:
    raise_if_dead([_ended(tmp_path, 0)], may_exit=True)
    with pytest.raises(CommandFailed):
        raise_if_dead([_ended(tmp_path, 1)], may_exit=True)


def test_exits_are_described_in_words() -> None:
    assert describe_exit(78) == "exit code 78"
    assert describe_exit(-9) == "killed by SIGKILL"
    assert describe_exit(-250) == "killed by signal 250"


def test_the_tail_of_a_log_is_short_and_safe(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 100_000 + b"\n" + b"\n".join(b"line %d \x1b[2J" % i for i in range(50)))
    lines = tail(log, 3)
    assert lines == [rf"line {i} \x1b[2J" for i in (47, 48, 49)]
    assert tail(tmp_path / "missing") == []
