"""`distqatctl local --kill-one`, as the failover tutorial has it: each role dies, the run ends."""

import json
from pathlib import Path

import pytest

from tests.support.processes import ctl, processes_in

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(500)]

MENDED = {
    "expert": "goes on over front.",
    "trainer": "took pipeline 0 over",
    "client": "took over the client's duty",
    "monitor": "is the new monitor",
}
"""How the verdict says what mended it, by the role that died."""


@pytest.mark.parametrize("role", MENDED)
def test_the_kill_the_recovery_and_the_verdict_are_shown(folder: Path, role: str) -> None:
    done = ctl(
        *("local", "--config", "digits", "--experts-per-stage", "2", "--outer-steps", "4"),
        *("--kill-one", "--role", role, "--json", "report.json"),
        cwd=folder,
        timeout_s=400,
    )
    shown = done.stderr + done.stdout  # progress and events; the summary
    assert done.returncode == 0, shown
    assert f"SIGKILL to {role}_" in shown
    assert "recovered in" in done.stdout
    assert MENDED[role] in done.stdout
    report = json.loads((folder / "report.json").read_text())
    kill = report["kill"]
    assert (kill["role"], kill["verdict"]) == (role, "recovered")
    assert 0 <= kill["recovery_s"] < 120
    assert bool(kill["uid"]) == (role == "expert")
    assert report["outer_steps"] == 4
    assert report["batches"]["lost"] == report["batches"]["duplicated"] == 0
    assert report["leftovers"] == []
    assert processes_in(folder) == []
