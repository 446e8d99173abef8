"""The real W&B, offline: no network, no account, its own thread."""

import threading

import psutil
import pytest

from distqatd.roles.wandb_sink import WandbSink
from tests.support.processes import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.mark.filterwarnings("ignore")
def test_metrics_are_written_offline_from_a_thread_of_its_own(tmp_path):
    failures: list[str] = []
    sink = WandbSink("distqat", "test", "offline", tmp_path, {"seed": 0}, failures.append)
    for step in range(3):
        sink.log({"loss": 1.0 / (step + 1)}, step)
    assert "distqat-wandb" in {thread.name for thread in threading.enumerate()}
    sink.close(60)
    assert failures == []
    written = list(tmp_path.rglob("*.wandb"))
    assert len(written) == 1
    assert written[0].stat().st_size > 0
    own = psutil.Process()
    wait_for(lambda: not own.children(recursive=True), 30, "W&B's child has ended")
