import sys
from pathlib import Path

import pytest

from distqatctl.errors import CommandFailed
from distqatctl.local.plan import (
    RunPlan,
    arguments,
    checkpoint_settings,
    daemons,
    plan_of,
    read_plan,
)

PLAN = RunPlan("digits", ("front", "back"), outer_steps=4, inner_steps=10)


def test_the_plan_comes_from_the_values_of_the_configuration() -> None:
    values = {
        "experiment_prefix": "digits",
        "model_pipeline": {
            "pipeline": [{"model_name": "resnet18.front"}, {"model_name": "resnet18.back"}]
        },
        "diloco": {"outer_steps": 4, "inner_steps": 10},
    }
    assert plan_of(values) == PLAN


def test_four_experts_make_two_replicas_of_two_stages_with_one_trainer_per_pipeline() -> None:
    started = daemons(PLAN, experts_per_stage=2)
    assert [(d.name, d.role) for d in started] == [
        ("monitor_0", "monitor"),
        ("client_0", "client"),
        ("expert_0", "expert"),
        ("expert_1", "expert"),
        ("expert_2", "expert"),
        ("expert_3", "expert"),
        ("trainer_0", "trainer"),
        ("trainer_1", "trainer"),
    ]


@pytest.mark.parametrize("role", ["monitor", "client", "expert"])
def test_every_daemon_stays_on_loopback_and_hangs_on_its_parent(role: str) -> None:
    daemon = next(d for d in daemons(PLAN, 1) if d.role == role)
    given = arguments(
        daemon,
        state_root=Path("/s"),
        log_dir=Path("logs/digits"),
        join=("@logs/digits/initial_peers.txt",),
        parent_fd=7,
    )
    line = " ".join(given)
    assert f"--state-dir /s/{role}_0 --log-file logs/digits/{role}_0.log" in line
    assert "--network-secret-file /s/swarm.secret" in line
    assert "--host 127.0.0.1 --port 0 --api-port -1 --parent-fd 7" in line
    assert "--join @logs/digits/initial_peers.txt" in line
    assert "--stage" not in line  # experts find the gaps themselves


def test_a_bad_configuration_ends_with_the_words_and_the_code_of_distqatd(tmp_path: Path) -> None:
    program = tmp_path / "broken.py"
    program.write_text("import sys; sys.stderr.write('error: no such key\\n'); sys.exit(78)")
    with pytest.raises(CommandFailed, match=r"^no such key$") as failure:
        read_plan((), (sys.executable, str(program)))
    assert failure.value.code == 78


def test_checkpoints_are_kept_only_when_asked_for() -> None:
    assert checkpoint_settings(None, keep=False, resume=False) == []
    kept = ["param_mirror.enable=true", "param_mirror.refresh_every=5"]
    assert checkpoint_settings(None, keep=True, resume=False) == kept
    settings = checkpoint_settings(Path("/r"), keep=False, resume=True)
    assert settings == [
        *kept,
        "param_mirror.checkpoint_dir=/r/checkpoints",
        "param_mirror.resume=true",
    ]


def test_a_run_that_resumes_keeps_checkpoints_as_well() -> None:
    values = {
        "experiment_prefix": "digits",
        "model_pipeline": {"pipeline": [{"model_name": "resnet18.full"}]},
        "diloco": {"outer_steps": 4, "inner_steps": 10},
        "param_mirror": {"enable": False, "resume": True},
    }
    plan = plan_of(values)
    assert plan.resume
    assert plan.keeps
