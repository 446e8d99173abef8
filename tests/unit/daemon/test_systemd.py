import asyncio
import socket

import pytest

from distqatd.daemon.systemd import Notifier


@pytest.fixture
def listener(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(5)
        yield receiver, str(tmp_path / "notify")


def test_readiness_and_status_travel_in_one_datagram(listener):
    receiver, path = listener
    Notifier({"NOTIFY_SOCKET": path}).send("READY=1", "STATUS=serving")
    assert receiver.recv(100) == b"READY=1\nSTATUS=serving"


def test_outside_systemd_nothing_happens():
    Notifier({}).send("READY=1")


def test_a_systemd_that_went_away_is_no_error(tmp_path):
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).send("READY=1")


async def test_the_watchdog_is_fed_at_half_its_period(listener, monkeypatch):
    receiver, path = listener
    slept = []

    async def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 2:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await Notifier({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "60000000"}).run()
    assert slept == [30.0, 30.0]
    assert receiver.recv(100) == b"WATCHDOG=1"
