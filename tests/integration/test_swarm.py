"""The main job with real processes: `distqatctl local`, and daemons started one by one."""

import json
import signal
from pathlib import Path

import psutil
import pytest

from tests.support.processes import ctl, processes_in, start_ctl, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

SHORT = ("--set", "diloco.inner_steps=10", "--set", "diloco.outer_steps=2")


def test_local_trains_digits_to_a_committed_anchor_that_all_replicas_share(folder):
    done = ctl(
        *("local", "--config", "digits", "--experts-per-stage", "2", "--json", "report.json"),
        cwd=folder,
        timeout_s=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((folder / "report.json").read_text())
    assert report["schema"] == "distqat.local/v1"
    assert report["eval"]["accuracy"] >= 0.97
    assert [stage["name"] for stage in report["stages"]] == ["front", "back"]
    for stage in report["stages"]:
        assert stage["replicas_identical"] is True
        assert len({expert["anchor_digest"] for expert in stage["experts"]}) == 1
        assert [expert["outer_step"] for expert in stage["experts"]] == [8, 8]
    assert report["outer_steps"] == 8
    assert report["batches"]["lost"] == report["batches"]["duplicated"] == 0
    assert report["batches"]["committed"] == report["inner_steps"]
    assert report["processes"] == 8  # monitor, client, 4 experts, 2 trainers
    assert report["leftovers"] == []
    assert processes_in(folder) == []


def wait_until_training(folder: Path) -> None:
    log = folder / "logs" / "digits" / "trainer_0.log"
    wait_for(lambda: log.exists() and "first_step" in log.read_text(), 150, "a first step")


def test_kill_9_of_local_leaves_nothing_running(folder):
    local = start_ctl("local", "--config", "digits", cwd=folder, output=folder / "out.txt")
    wait_until_training(folder)
    assert len(processes_in(folder)) > 5
    local.kill()
    local.wait()
    wait_for(lambda: not processes_in(folder), 30, "every daemon ended")


def test_ctrl_c_stops_everything_with_exit_code_130(folder):
    local = start_ctl("local", "--config", "digits", cwd=folder, output=folder / "out.txt")
    wait_until_training(folder)
    local.send_signal(signal.SIGINT)
    assert local.wait(30) == 130
    assert processes_in(folder) == []


def test_volunteers_join_with_the_printed_line_and_train_to_the_end(start):
    first = start("first", "--role", "monitor,client", "--config", "digits", *SHORT)
    first.wait_until_up()
    for name in ("v1", "v2"):
        start(name, "--role", "expert", "--join", first.invite).wait_until_up()
    wait_for(lambda: first.ask("run", "show")["finished"], 150, "the run is finished")
    status = first.ask("status")
    assert [stage["num_replicas"] for stage in status["stages"]] == [1, 1]
    run = first.ask("run", "show")
    assert run["outer_step"] == 2
    assert run["batches"].pop("committed") == 20
    assert not any(run["batches"].values()), run["batches"]
    assert {peer["roles"][0] for peer in first.ask("peers")["peers"]} == {"expert"}
    assert len(first.ask("pipelines")["pipelines"][0]["hops"]) == 2
    initial = Path(first.state.parent / "logs" / "digits" / "initial_peers.txt").read_text()
    assert f"/ip4/127.0.0.1/tcp/{first.port}" in initial


def test_an_idle_monitor_and_client_stay_small_and_without_torch(start):
    daemon = start("idle", "--role", "monitor,client", "--config", "digits").wait_until_up()
    process = psutil.Process(daemon.process.pid)
    loaded = {Path(area.path).name for area in process.memory_maps()}
    assert not [name for name in loaded if "torch" in name]
    assert process.memory_info().rss < 100 << 20
    assert process.children() == []


def test_an_expert_that_is_killed_is_replaced_and_no_batch_is_lost(start):
    config = ("--config", "digits", "--set", "diloco.outer_steps=6", *SHORT[:2])
    first = start("first", "--role", "monitor,client", *config).wait_until_up()
    experts = [start(f"e{i}", "--role", "expert", "--join", first.invite) for i in range(2)]
    wait_for(lambda: first.ask("run", "show")["inner_steps"] > 0, 150, "training has begun")
    experts[0].stop()
    start("spare", "--role", "expert", "--join", first.invite)
    wait_for(lambda: first.ask("run", "show")["finished"], 200, "the run is finished")
    batches = first.ask("run", "show")["batches"]
    assert batches["lost"] == batches["duplicated"] == 0


def test_a_peer_of_another_swarm_is_refused_and_told(start, folder):
    first = start("first", "--role", "monitor", "--config", "digits").wait_until_up()
    (folder / "other").mkdir()
    (folder / "secret").write_text("ab" * 32 + "\n")
    (folder / "secret").chmod(0o600)
    stranger = start(
        *("stranger", "--role", "expert", "--join", f"127.0.0.1:{first.port}"),
        *("--network-secret-file", str(folder / "secret"), "--network-join-timeout", "3"),
    )
    assert stranger.exit_code() == 69
    assert f"127.0.0.1:{first.port}" in stranger.text
    assert "fix:" in stranger.text
    assert first.ask("peers")["peers"] == []


def test_another_config_is_refused_at_join_with_both_values(start):
    first = start("first", "--role", "monitor", "--config", "digits").wait_until_up()
    joiner = start(
        *("joiner", "--role", "expert", "--join", first.invite, "--config", "digits"),
        *("--set", "diloco.inner_steps=7"),
    )
    assert joiner.exit_code() == 78
    assert "diloco.inner_steps: 7 here, 40 there" in joiner.text


def test_no_peer_answering_is_an_error_that_names_each_address(start):
    first = start("first", "--role", "monitor", "--config", "digits").wait_until_up()
    invite = first.invite
    first.stop()
    joiner = start("joiner", "--role", "expert", "--join", invite, "--network-join-timeout", "2")
    assert joiner.exit_code() == 69
    assert f"127.0.0.1:{first.port}" in joiner.text
    assert "distqatctl invite" in joiner.text


def test_a_port_in_use_names_the_port_and_its_holder(start):
    first = start("first", "--role", "monitor", "--config", "digits").wait_until_up()
    second = start("second", "--role", "monitor", "--port", str(first.port))
    assert second.exit_code() == 69
    assert str(first.port) in second.text
    assert str(first.process.pid) in second.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "diloco.inner_step=3"), "inner_steps"),
        (("--set", "diloco.inner_steps=many"), "diloco.inner_steps"),
        (("--role", "expert", "--set", 'model_pipeline.pipeline=[{"model_name": "rsnet18.full"}]'),
         "resnet18"),
        (("--role", "expert", "--device", "cuda:7"), "cuda:7"),
    ],
)  # fmt: skip
def test_a_bad_configuration_ends_with_78_and_says_what_would_be_right(start, arguments, words):
    daemon = start("bad", *arguments)
    assert daemon.exit_code() == 78
    assert words in daemon.text
    assert "Traceback" not in daemon.text
