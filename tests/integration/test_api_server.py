"""The API over real sockets."""

import asyncio
import json
import os
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from distqatd.api.server import ApiServer, open_loopback
from distqatd.base.errors import ConfigError, PortInUse
from tests.support.fake_provider import FakeProvider

pytestmark = pytest.mark.integration


@asynccontextmanager
async def _serving(provider: FakeProvider, path: Path, port: int = 0) -> AsyncIterator[ApiServer]:
    server = ApiServer(provider, path, port)
    server.open()
    try:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(server.run())
            try:
                yield server
            finally:
                running.cancel()
    finally:
        server.close()


def _over(path: Path) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(uds=str(path))
    return httpx.AsyncClient(transport=transport, base_url="http://distqat", timeout=5)


async def test_the_socket_is_private_and_the_file_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    async with _serving(FakeProvider(), path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        async with _over(path) as client:
            assert (await client.get("/v1/invite")).json()["text"] == "dq1:secret"
    assert not path.exists()


async def test_the_loopback_port_reads_only_and_only_under_its_own_name(tmp_path: Path) -> None:
    async with _serving(FakeProvider(), tmp_path / "api.sock") as server:
        base = f"http://127.0.0.1:{server.tcp_port}"
        async with httpx.AsyncClient(base_url=base, timeout=5) as client:
            assert (await client.get("/v1/status")).status_code == 200
            assert (await client.get("/v1/invite")).status_code == 403
            assert (await client.post("/v1/stop", json={})).status_code == 403
            rebound = await client.get("/v1/status", headers={"host": "evil.example"})
            assert rebound.status_code == 403


async def test_no_tcp_port_is_opened_when_it_is_disabled(tmp_path: Path) -> None:
    async with _serving(FakeProvider(), tmp_path / "api.sock", port=-1) as server:
        assert server.tcp_port is None


async def test_a_followed_stream_shows_new_events_and_does_not_hold_up_the_stop(
    tmp_path: Path,
) -> None:
    provider, path = FakeProvider(), tmp_path / "api.sock"
    loop = asyncio.get_running_loop()
    async with _over(path) as client:
        async with _serving(provider, path):
            provider.events_log.emit("first")
            async with client.stream("GET", "/v1/events?follow=true") as reply:
                lines = reply.aiter_lines()
                assert json.loads(await anext(lines))["kind"] == "first"
                provider.events_log.emit("second")
                assert json.loads(await anext(lines))["kind"] == "second"
                await reply.aclose()
            stream = await client.send(
                client.build_request("GET", "/v1/events?follow=true"), stream=True
            )
            stopping_at = loop.time()
        assert loop.time() - stopping_at < 1.0
        await stream.aclose()


async def test_our_signal_handlers_stay_ours(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    async with _serving(FakeProvider(), tmp_path / "api.sock"):
        async with _over(tmp_path / "api.sock") as client:
            await client.get("/v1/status")
        assert signal.getsignal(signal.SIGTERM) is before


async def test_a_socket_left_by_a_dead_daemon_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with _serving(FakeProvider(), path), _over(path) as client:
        assert (await client.get("/v1/status")).status_code == 200


async def test_a_socket_that_answers_is_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    async with _serving(FakeProvider(), path):
        with pytest.raises(PortInUse, match="another distqatd"):
            ApiServer(FakeProvider(), path, -1).open()
        assert path.exists()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    path.write_text("precious")
    with pytest.raises(OSError, match="Address already in use"):
        ApiServer(FakeProvider(), path, -1).open()
    assert path.read_text() == "precious"


def test_a_taken_port_is_named_and_nothing_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with open_loopback(0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=f"127.0.0.1:{port}.*--api-port"):
            ApiServer(FakeProvider(), path, port).open()
    assert not path.exists()


def test_a_path_too_long_for_a_socket_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--state-dir"):
        ApiServer(FakeProvider(), tmp_path / ("x" * 120) / "api.sock", -1).open()


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop has no Windows build")
def test_it_serves_both_listeners_on_uvloop_too(tmp_path: Path) -> None:
    import uvloop

    async def main() -> tuple[int, int]:
        path = tmp_path / "api.sock"
        tcp = httpx.AsyncClient()
        async with _serving(FakeProvider(), path) as server, _over(path) as unix, tcp:
            url = f"http://127.0.0.1:{server.tcp_port}/v1/status"
            return (await unix.get("/v1/invite")).status_code, (await tcp.get(url)).status_code

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()) == (200, 200)
    assert os.listdir(tmp_path) == []
