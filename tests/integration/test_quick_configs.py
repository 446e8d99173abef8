"""Every quick configuration reaches its bar with a whole swarm: `distqatctl local --config X`.

The bars are in docs/first-swarm.md. `digits` is in `test_swarm`; some end earlier than people would
let them, above their bar already.
"""

import json
from pathlib import Path

import pytest

from tests.support.processes import ctl

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

UNTRAINED_NOISE_LOSS = 1.0
"""Mean squared error of a model that predicts no noise at all: the variance of the noise."""


def trained(folder: Path, config: str, *arguments: str) -> dict[str, float | None]:
    """Train with one pipeline and return the evaluation."""
    done = ctl(
        *("local", "--config", config, "--experts-per-stage", "1", "--json", "report.json"),
        *arguments,
        cwd=folder,
        timeout_s=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((folder / "report.json").read_text())
    assert len(report["stages"]) >= 2
    assert report["batches"]["lost"] == report["batches"]["duplicated"] == 0
    return report["eval"]


def test_spoken_tones_are_told_apart(folder: Path) -> None:
    assert trained(folder, "spoken", "--outer-steps", "3")["accuracy"] >= 0.9


def test_the_loss_of_the_noise_in_digits_is_more_than_halved(folder: Path) -> None:
    ended = trained(folder, "diffusion_digits", "--outer-steps", "2")
    assert ended["loss"] < UNTRAINED_NOISE_LOSS / 2


def test_digits_are_read_with_two_bits_over_lossy_links(folder: Path) -> None:
    assert trained(folder, "digits_qat", "--outer-steps", "4", "--config", "wan")["accuracy"] >= 0.9


def test_members_of_the_karate_club_are_told_apart(folder: Path) -> None:
    """With a data server, which this small data set would do without."""
    assert trained(folder, "karate", "--set", "data_server.mode=on")["accuracy"] >= 0.9
    logs = folder / "logs" / "karate"
    assert "data.serving" in (logs / "client_0.log").read_text()
    told = (logs / "trainer_0.log").read_text()
    assert "data.served" in told
    assert "data.unserved" not in told


def test_a_pole_is_balanced(folder: Path) -> None:
    assert trained(folder, "cartpole", "--outer-steps", "4")["mean_return"] >= 200


def test_a_gpt_in_three_stages_learns_to_write_python(folder: Path) -> None:
    assert trained(folder, "gpt_bytes")["loss"] < 2.3
