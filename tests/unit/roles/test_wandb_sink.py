"""The sink's own thread with a made-up `wandb` module; the real one is in the integration tests."""

import sys
import threading
from types import SimpleNamespace

import pytest

from distqatd.roles.wandb_sink import MAX_WAITING, WandbSink


class FakeRun:
    def __init__(self):
        self.logged, self.finished = [], False
        self.may_log = threading.Event()
        self.may_log.set()

    def log(self, metrics, step):
        self.may_log.wait(10)
        self.logged.append((step, metrics))

    def finish(self):
        self.finished = True


@pytest.fixture
def fake(monkeypatch):
    run, calls = FakeRun(), []

    def init(**arguments):
        calls.append((threading.current_thread().name, arguments))
        return run

    module = SimpleNamespace(init=init, Settings=dict, teardown=lambda: None, run=run, calls=calls)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def open_sink(folder, failures):
    return WandbSink("project", "run", "offline", folder / "logs", {"seed": 1}, failures.append)


def test_metrics_are_logged_in_order_from_a_thread_of_its_own(fake, tmp_path):
    failures = []
    sink = open_sink(tmp_path, failures)
    for step in range(5):
        sink.log({"loss": 1.0}, step)
    sink.close()
    [(thread, arguments)] = fake.calls
    assert thread == "distqat-wandb"
    assert (arguments["project"], arguments["mode"]) == ("project", "offline")
    assert arguments["config"] == {"seed": 1}
    assert [step for step, _ in fake.run.logged] == list(range(5))
    assert fake.run.finished
    assert failures == []


def test_metrics_that_wandb_cannot_take_in_time_are_dropped(fake, tmp_path):
    failures = []
    sink = open_sink(tmp_path, failures)
    fake.run.may_log.clear()
    for step in range(3 * MAX_WAITING):
        sink.log({}, step)  # returns at once, however slow W&B is
    fake.run.may_log.set()
    sink.close()
    assert len(fake.run.logged) <= MAX_WAITING + 1
    assert failures == []


@pytest.mark.parametrize("fails", ["init", "log"])
def test_a_failing_wandb_is_told_and_never_raised(fake, tmp_path, fails):
    def broken(*_, **__):
        raise RuntimeError("its child died")

    setattr(fake if fails == "init" else fake.run, fails, broken)
    failures = []
    sink = open_sink(tmp_path, failures)
    sink.log({"loss": 1.0}, 1)
    sink.close()
    sink.log({"loss": 1.0}, 2)
    assert failures == ["RuntimeError: its child died"]


def test_without_wandb_installed_the_reason_is_told(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    failures = []
    open_sink(tmp_path, failures).close()
    [failure] = failures
    assert "wandb" in failure
