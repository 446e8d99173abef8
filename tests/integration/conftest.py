"""What tests with real processes share: a folder that nothing outlives, and daemons in it."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.processes import Daemon, processes_in

Start = Callable[..., Daemon]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder with a short path: unix sockets have at most 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="dqi")).resolve()
    yield path
    for process in processes_in(path):
        process.kill()
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Start daemons by name and arguments; all are stopped at the end."""
    daemons: list[Daemon] = []

    def begin(name: str, *arguments: str) -> Daemon:
        daemons.append(Daemon(folder, name, *arguments))
        return daemons[-1]

    yield begin
    for daemon in daemons:
        daemon.stop()
