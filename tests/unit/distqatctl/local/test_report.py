from pathlib import Path

import pytest

from distqatctl.local.report import exit_code, make_report, problems, report_stage, summary
from distqatctl.local.watch import Snapshot, all_at_step
from distqatd.api import schema
from distqatd.api.local_schema import KillReport, LocalReport
from tests.support.fake_provider import expert, run_info, stage, status


def _report(**changes: object) -> LocalReport:
    run = run_info(
        finished=True,
        eval=schema.Eval(loss=0.1234, accuracy=0.961),
        first_step_unix_s=106.0,
        outer_step=10,
    )
    stages = tuple(stage(name, expert(name, 0), expert(name, 1)) for name in ("front", "back"))
    report = make_report(
        Snapshot(status(stages=stages), run),
        run,
        replicas={"front": 2, "back": 2},
        launched_unix_s=100.0,
        wall_s=21.04,
        processes=8,
        leftovers=(),
    )
    return report.model_copy(update=changes)


def test_a_clean_run_is_reported_as_such() -> None:
    report = _report()
    assert problems(report) == []
    assert exit_code(report) == 0
    assert report.time_to_first_step_s == 6.0
    shown = summary(report, Path("logs/digits"))
    assert "trained 10 outer steps (300 inner steps) in 21 s, 400 samples/s" in shown
    assert "first step after 6.0 s" in shown
    assert "accuracy 96.1%, loss 0.1234" in shown
    assert "front     2 replicas, identical" in shown
    assert "left behind none" in shown
    assert "logs/digits" in shown


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"eval": None}, "not evaluated"),
        ({"batches": schema.Batches(lost=2)}, "2 batches lost"),
        ({"batches": schema.Batches(duplicated=1)}, "counted twice"),
        ({"leftovers": ("port 29700",)}, "left behind: port 29700"),
    ],
)
def test_what_went_wrong_makes_the_run_degraded(changes: dict[str, object], problem: str) -> None:
    report = _report(**changes)
    assert exit_code(report) == 3
    assert problem in summary(report, Path("logs"))


@pytest.mark.parametrize(
    "experts",
    [
        (),
        (expert("front", 0),),
        (expert("front", 0), expert("front", 1, digest="other")),
        (expert("front", 0), expert("front", 1, outer_step=2)),
        (expert("front", 0, digest=""), expert("front", 1, digest="")),
    ],
    ids=["none", "one-missing", "digest", "step", "no-digest"],
)
def test_replicas_are_identical_only_if_all_are_there_with_one_anchor(
    experts: tuple[schema.StageExpert, ...],
) -> None:
    assert not report_stage(stage("front", *experts), 2).replicas_identical


def test_one_replica_is_identical_to_itself() -> None:
    assert report_stage(stage("front", expert("front", 0)), 1).replicas_identical


def test_the_run_has_settled_when_every_replica_announced_the_last_step() -> None:
    def at(*steps: int) -> Snapshot:
        experts = [expert("front", i, outer_step=step) for i, step in enumerate(steps)]
        return Snapshot(status(stages=(stage("front", *experts),)), run_info())

    assert all_at_step(at(4, 4), 4, {"front": 2})
    assert not all_at_step(at(4, 3), 4, {"front": 2})
    assert not all_at_step(at(4), 4, {"front": 2})
    assert not all_at_step(Snapshot(), 4, {"front": 2})


def _kill(**changes: object) -> KillReport:
    values: dict[str, object] = {
        "role": "expert",
        "daemon": "expert_2",
        "uid": "back.0.0.0",
        "peer_id": "p",
        "outer_step": 1,
        "had_spare": False,
        "recovery_s": 5.24,
        "others_stall_s": 0.31,
        "verdict": "recovered",
        "reason": "pipeline 0 goes on over front.0.0.0 back.0.0.0",
    }
    return KillReport.model_validate({**values, **changes})


def test_the_summary_says_what_came_of_a_kill() -> None:
    shown = summary(_report(kill=_kill()), Path("logs"))
    assert "kill      expert_2 (back.0.0.0): recovered in 5.2 s, pipeline 0 goes on" in shown
    assert "the others never waited over 0.3 s" in shown
    assert exit_code(_report(kill=_kill())) == 0


def test_a_swarm_that_does_not_recover_is_degraded() -> None:
    kill = _kill(recovery_s=None, verdict="not recovered", reason="pipeline 0 stands still")
    report = _report(kill=kill)
    assert exit_code(report) == 3
    assert "NOT RECOVERED" in summary(report, Path("logs"))
    assert "the swarm did not recover: pipeline 0 stands still" in problems(report)


def test_the_summary_says_where_a_resumed_run_began() -> None:
    shown = summary(_report(resumed_from=3), Path("logs"))
    assert "resumed   from the checkpoint of outer step 3" in shown
