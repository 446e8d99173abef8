"""Signals: drain first, at once the second time; and a parent that is gone."""

import asyncio
import os
import signal
from pathlib import Path

from distqatd.base.rng import seeded_rng
from distqatd.base.tasks import Supervisor
from distqatd.config.sections import Config, ControlConfig
from distqatd.daemon.options import Options
from distqatd.daemon.stopping import Stopper, drain_seconds
from tests.support.loops import on_virtual_time


class FakeNode:
    def __init__(self, options):
        self.options = options
        self.stopping = asyncio.Event()
        self.is_leaving = False
        self.asked = []

    async def drain_and_stop(self, reason, deadline_s):
        self.is_leaving = True
        self.asked.append((reason, deadline_s))

    def stop(self, reason):
        self.asked.append((reason, None))
        self.stopping.set()


class FakeNotifier:
    def __init__(self):
        self.sent = []

    def send(self, *lines):
        self.sent += lines


def options(stop_deadline=30.0, parent_fd=None):
    config = Config(control=ControlConfig(stop_deadline=stop_deadline))
    return Options(("expert",), config, Path("/nowhere"), parent_fd=parent_fd)


@on_virtual_time
async def test_the_first_signal_drains_and_the_second_ends_the_process():
    async with Supervisor("test", seeded_rng(1)) as tasks:
        node, notifier, ended = FakeNode(options()), FakeNotifier(), []
        stopper = Stopper(node, tasks, notifier, ended.append)
        stopper.on_signal(signal.SIGTERM)
        await asyncio.sleep(0)
        assert node.asked == [("SIGTERM", 30.0)]
        assert notifier.sent == ["STOPPING=1", "STATUS=draining", "EXTEND_TIMEOUT_USEC=60000000"]
        assert ended == []
        stopper.on_signal(signal.SIGINT)
        assert ended == [130]


@on_virtual_time
async def test_a_signal_during_a_stop_ends_the_process():
    async with Supervisor("test", seeded_rng(1)) as tasks:
        node, ended = FakeNode(options()), []
        node.stop("asked over the API")
        Stopper(node, tasks, FakeNotifier(), ended.append).on_signal(signal.SIGTERM)
        assert ended == [143]


def test_a_daemon_with_a_parent_leaves_at_once():
    assert drain_seconds(options()) == 30.0
    assert drain_seconds(options(stop_deadline=0)) == 0.0
    assert drain_seconds(options(parent_fd=3)) == 0.0


async def test_the_end_of_the_parent_stops_the_daemon():
    read_fd, write_fd = os.pipe()
    node = FakeNode(options(parent_fd=read_fd))
    async with Supervisor("test", seeded_rng(1)) as tasks:
        Stopper(node, tasks, FakeNotifier(), lambda _: None).watch_parent(read_fd)
        os.close(write_fd)
        await node.stopping.wait()
    assert node.asked == [("the parent process is gone", None)]
    os.close(read_fd)
