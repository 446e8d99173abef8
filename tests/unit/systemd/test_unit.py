"""The systemd unit: accepted, well sandboxed, and in step with the program's own defaults."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from distqatd.base.errors import ConfigError
from distqatd.config.control import ControlConfig
from distqatd.config.load import load
from distqatd.config.network import NetworkConfig
from distqatd.daemon.arguments import parse
from distqatd.daemon.stopping import STOP_MARGIN_S

SYSTEMD = Path(__file__).parents[3] / "systemd"
UNIT = SYSTEMD / "distqatd.service"

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd is not installed"
)


def settings(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text(), re.MULTILINE)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Return the unit as if distqatd were installed: verify wants the program to exist."""
    unit = tmp_path / "distqatd.service"
    unit.write_text(UNIT.read_text().replace("/opt/distqat/bin/distqatd", sys.executable))
    return unit


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


@needs_systemd
def test_systemd_accepts_the_unit_without_a_warning(installed: Path) -> None:
    done = analyze("verify", str(installed))
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_the_sandbox_scores_as_safe(installed: Path) -> None:
    done = analyze("security", "--offline=true", "--threshold=15", str(installed))
    assert done.returncode == 0, done.stdout


def test_the_allowed_ports_are_the_default_ones() -> None:
    port, api_port = (NetworkConfig.model_fields[key].default for key in ("port", "api_port"))
    assert settings("SocketBindAllow") == [f"tcp:{port}", f"udp:{port}", f"tcp:{api_port}"]


def test_every_command_line_in_the_environment_file_is_understood() -> None:
    text = (SYSTEMD / "distqatd.env").read_text()
    lines = re.findall(r'^#?DISTQATD_OPTS="(.*)"$', text, re.MULTILINE)
    assert [parse(shlex.split(line)).role for line in lines] == [
        ("expert",),
        ("monitor", "client"),
    ]


def test_every_variable_in_the_environment_file_is_a_configuration_value() -> None:
    text = (SYSTEMD / "distqatd.env").read_text()
    found = dict(re.findall(r"^#?(DISTQAT_\w+)=(.*)$", text, re.MULTILINE))
    assert len(load(env=found).origins) == len(found) > 0


def test_systemd_waits_for_a_drain_and_the_stop_after_it() -> None:
    [timeout_s] = settings("TimeoutStopSec")
    assert int(timeout_s) >= ControlConfig().stop_deadline + STOP_MARGIN_S


def test_bad_arguments_and_bad_configuration_are_not_restarted() -> None:
    assert settings("RestartPreventExitStatus") == [f"2 {ConfigError.exit_code}"]
