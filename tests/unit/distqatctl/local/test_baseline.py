import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from distqatctl.errors import CommandFailed
from distqatctl.local.baseline import run_baseline, summary
from distqatctl.local.display import Lines

_GOOD = """
import json, sys
print(json.dumps({"step": 1, "outer_step": 0, "loss": 2.5}), flush=True)
print("something else", flush=True)
print(json.dumps({"eval": {"loss": 0.1}}), flush=True)
open(sys.argv[sys.argv.index("--json") + 1], "w").write('{"eval": {"loss": 0.1, "accuracy": 0.9}}')
"""
_SLOW = 'import time; print(\'{"step": 1, "loss": 2.5}\', flush=True); time.sleep(60)'


def _program(tmp_path: Path, text: str) -> tuple[str, str]:
    path = tmp_path / "baseline.py"
    path.write_text(text)
    return sys.executable, str(path)


def test_the_baselines_steps_are_shown_and_its_report_returned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.json"
    result = run_baseline(["--set", "seed=1"], target, 4, Lines(), _program(tmp_path, _GOOD))
    assert result == {"eval": {"loss": 0.1, "accuracy": 0.9}}
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 1
    assert "inner step 1  loss 2.500" in shown[0]
    assert summary(result) == "baseline  accuracy 90.0%, loss 0.100 on the validation samples"


@pytest.mark.parametrize(("code", "expected"), [(78, 78), (1, 1)])
def test_a_baseline_that_fails_is_an_error(tmp_path: Path, code: int, expected: int) -> None:
    program = _program(tmp_path, f"raise SystemExit({code})")
    with pytest.raises(CommandFailed, match=f"exit code {code}") as failure:
        run_baseline([], tmp_path / "out.json", 4, Lines(), program)
    assert failure.value.code == expected


def test_ctrl_c_ends_the_baseline_although_it_says_nothing(tmp_path: Path) -> None:
    class Interrupting(Lines):
        def show(self, line: str, done: float, total: float) -> None:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()

    program = _program(tmp_path, _SLOW)
    with pytest.raises(CommandFailed, match="SIGINT") as failure:
        run_baseline([], tmp_path / "out.json", 4, Interrupting(), program)
    assert failure.value.code == 130
