"""`distqatctl` as a program against the API over a real socket."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from distqatd.api.server import ApiServer
from tests.support.fake_provider import FakeProvider

pytestmark = pytest.mark.integration

_HEAVY = ("torch", "fastapi", "starlette", "uvicorn", "httpx", "kademlia", "cryptography", "numpy")


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider()


@pytest.fixture
def socket(tmp_path: Path, provider: FakeProvider) -> Iterator[Path]:
    path = tmp_path / "api.sock"
    server = ApiServer(provider, path, -1)
    server.open()
    loop = asyncio.new_event_loop()
    task = loop.create_task(server.run())

    def serve() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)

    thread = threading.Thread(target=serve)
    thread.start()
    yield path
    loop.call_soon_threadsafe(task.cancel)
    thread.join()
    loop.close()


def _ctl(*argv: str, socket: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("DISTQAT_")}
    if socket is not None:
        env["DISTQAT_SOCKET"] = str(socket)
    command = [sys.executable, "-m", "distqatctl", *argv]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=env, timeout=60)


def test_every_look_works_end_to_end(socket: Path, provider: FakeProvider) -> None:
    provider.events_log.emit("peer.joined", peer="birch-bbbb")
    for command in ("status", "peers", "pipelines", "rounds", "run show", "invite"):
        shown = _ctl(*command.split(), socket=socket)
        assert (shown.returncode, shown.stderr) == (0, "")
        as_json = _ctl(*command.split(), "--json", socket=socket)
        assert json.loads(as_json.stdout)["schema"].startswith("distqat.")
    assert "peer.joined  peer=birch-bbbb" in _ctl("events", socket=socket).stdout


def test_a_drain_is_followed_to_its_end(socket: Path, provider: FakeProvider) -> None:
    provider.actions.looks = 2
    done = _ctl("drain", "birch-bbbb", "--deadline", "60", socket=socket)
    assert (done.returncode, done.stdout) == (
        0,
        "drain on birch-bbbb: front.0.0.0: left after 2.0 s\n",
    )
    assert done.stderr.splitlines() == ["drain on birch-bbbb: front.0.0.0 draining"]
    [order] = provider.actions.asked
    assert (order.kind, order.peer, order.deadline_s) == ("drain", "birch-bbbb", 60.0)


def test_ctrl_c_ends_the_watching_and_not_the_operation(
    socket: Path, provider: FakeProvider
) -> None:
    provider.actions.looks = 10_000
    command = [sys.executable, "-m", "distqatctl", "drain", "--socket", str(socket)]
    watching = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert watching.stderr is not None
    assert "draining" in watching.stderr.readline()
    watching.send_signal(signal.SIGINT)
    _, told = watching.communicate(timeout=30)
    assert watching.returncode == 130
    assert "it goes on; follow it with: distqatctl jobs 1" in told


def test_an_error_of_the_daemon_arrives_with_its_exit_code(
    socket: Path, provider: FakeProvider
) -> None:
    provider.run_reply = None
    failed = _ctl("run", "show", socket=socket)
    assert failed.returncode == 3
    assert failed.stderr == "error: this daemon knows of no run yet; wait until it has joined\n"


def test_no_daemon_is_exit_code_4_with_what_to_do(tmp_path: Path) -> None:
    failed = _ctl("status", "--socket", str(tmp_path / "api.sock"))
    assert failed.returncode == 4
    assert "no daemon answers on" in failed.stderr
    assert "fix: start one: distqatd" in failed.stderr


def test_a_socket_without_a_daemon_behind_it_is_exit_code_4(tmp_path: Path) -> None:
    import socket as sockets

    path = tmp_path / "api.sock"
    with sockets.socket(sockets.AF_UNIX) as dead:
        dead.bind(str(path))
    assert _ctl("status", "--socket", str(path)).returncode == 4


def test_config_commands_ask_the_daemon_of_this_installation() -> None:
    shown = _ctl("config", "show", "--json", "--set", "diloco.inner_steps=7")
    assert json.loads(shown.stdout)["values"]["diloco"]["inner_steps"] == 7
    assert (
        "inner_steps: 7  # --set"
        in _ctl("config", "show", "--origin", "--set", "diloco.inner_steps=7").stdout
    )
    assert "properties" in json.loads(_ctl("config", "schema").stdout)
    bad = _ctl("config", "show", "--set", "diloco.iner_steps=7")
    assert bad.returncode == 78
    assert "inner_steps" in bad.stderr


@pytest.mark.parametrize("argv", [("--help",), ("status",), ("local", "--help")])
def test_nothing_heavy_is_imported(socket: Path, argv: tuple[str, ...]) -> None:
    program = (
        "import sys; from distqatctl.cli import main\n"
        f"sys.argv = ['distqatctl', *{argv!r}]\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('MODULES', *sys.modules)"
    )
    env = {**os.environ, "DISTQAT_SOCKET": str(socket)}
    command = [sys.executable, "-c", program]
    shown = subprocess.run(
        command, check=False, capture_output=True, text=True, env=env, timeout=60
    )
    modules = set(shown.stdout.rpartition("MODULES")[2].split())
    assert modules, shown.stderr
    assert not modules & set(_HEAVY)
    ours = {m for m in modules if m.startswith("distqatd.")}
    assert not {m for m in ours if not re.fullmatch(r"distqatd\.api\.(\w+_)?schema", m)} - {
        *("distqatd.api", "distqatd.base", "distqatd.base.errors", "distqatd.base.clock"),
        "distqatd.base.decision",
    }
