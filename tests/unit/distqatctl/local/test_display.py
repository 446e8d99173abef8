import pytest

from distqatctl.local.display import Bar, Lines, describe, progress_of
from distqatctl.local.watch import Snapshot
from distqatd.api import schema
from tests.support.fake_provider import GAP, expert, run_info, stage, status


def test_progress_is_described_from_nothing_to_training() -> None:
    assert describe(Snapshot(), 2) == "waiting for the client to come up"
    stages = (stage("front", expert("front", 0)), stage("back"))
    assert (
        describe(Snapshot(status(training=None, stages=stages)), 2)
        == "waiting for experts: front 1/2, back 0/2"
    )
    training = "outer step 3/10  loss 1.250  412 samples/s  2 pipelines"
    assert describe(Snapshot(status()), 2) == training
    assert describe(Snapshot(status(gaps=(GAP,))), 2) == f"{training}  gap in back"


def test_a_waiting_run_says_for_whom() -> None:
    waiting = schema.Training(
        state="waiting",
        outer_step=0,
        outer_steps=4,
        inner_step=0,
        loss=None,
        samples_per_s=0.0,
        num_pipelines=0,
    )
    assert "none yet" in describe(Snapshot(status(training=waiting, stages=())), 2)


def test_the_bar_counts_outer_steps() -> None:
    assert progress_of(Snapshot()) == (0.0, 1.0)
    assert progress_of(Snapshot(status(), run_info())) == (3.0, 10.0)


def test_lines_are_printed_for_outer_steps_and_not_for_every_poll(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Lines() as lines:
        for loss in ("2.0", "1.9", "1.8"):
            lines.show(f"outer step 0  loss {loss}", 0, 4)
        lines.show("outer step 1  loss 1.5", 1, 4)
        lines.show("outer step 1  loss 1.5", 1, 4)
    shown = capsys.readouterr().err.splitlines()
    assert [line[line.index("outer") :] for line in shown] == [
        "outer step 0  loss 2.0",
        "outer step 1  loss 1.5",
    ]


def test_neither_display_passes_on_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    for display in (Lines(), Bar()):
        with display:
            display.say("left behind: \x1b[2J")
            display.show("\x1b[2J", 1, 2)
    assert "\x1b[2J" not in capsys.readouterr().err
