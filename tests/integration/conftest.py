"""What tests with real processes share: a folder that nothing outlives, and daemons in it."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.processes import Daemon, processes_in
from tests.support.real_swarm import RealSwarm, real_swarm

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


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest) -> Iterator[RealSwarm]:
    """Run one swarm for all tests of a file, of its CONFIG and SIZE."""
    with real_swarm(request.module.CONFIG, request.module.SIZE) as swarm:
        yield swarm


@pytest.fixture
def swarm(running: RealSwarm) -> RealSwarm:
    """Return the swarm of the file, whole again."""
    running.wait_until_whole()
    return running
