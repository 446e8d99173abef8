"""docs/tutorials/your-own-model.md, done as it says: a package, installed, and trained."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.processes import ENV, ROOT

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

PAGE = ROOT / "docs/tutorials/your-own-model.md"


def block(language: str) -> str:
    """Return the page's code block in a language; there is one of each."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    (text,) = (text for found, text in blocks if found == language)
    return text


def install(folder: Path) -> None:
    """Do what `pip install .` does with the page's two files, which would need the network."""
    project = tomllib.loads(block("toml"))["project"]
    groups = project["entry-points"]
    lines = [
        f"[{group}]\n{name} = {at}\n" for group in groups for name, at in groups[group].items()
    ]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(head)
    (info / "entry_points.txt").write_text("".join(lines))
    (module,) = groups["distqat.experts"].values()
    (folder / f"{module}.py").write_text(block("python"))


def run(line: str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    program, *arguments = shlex.split(line)
    path = os.pathsep.join([str(folder / "site"), ENV["PYTHONPATH"]])
    return subprocess.run(
        [sys.executable, "-m", program, *arguments, *more],
        cwd=folder,
        env={**ENV, "PYTHONPATH": path},
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_the_model_of_the_tutorial_is_installed_checked_and_trained(folder: Path) -> None:
    (folder / "wavelet.yaml").write_text(block("yaml"))
    check, local = block("").splitlines()
    missing = run(check, folder)
    assert missing.returncode == 78
    assert "install the one it comes from" in missing.stderr
    install(folder / "site")
    checked = run(check, folder)
    assert checked.returncode == 0, checked.stderr
    done = run(local, folder, "--json", "report.json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((folder / "report.json").read_text())
    assert [stage["name"] for stage in report["stages"]] == ["head", "tail"]
    assert report["eval"]["accuracy"] > 0.9
