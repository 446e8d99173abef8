import json
from collections.abc import Callable

import pytest

from distqatctl import cli, control_commands, doctor, top
from distqatctl.errors import CommandFailed
from distqatd.api import control_schema as c
from distqatd.api import round_schema, schema
from tests.support import fake_provider as fake
from tests.support.fake_actions import DOCTOR, MOVES, job

Run = Callable[..., int]


class Daemon:
    """Stands in for a daemon's API: `running` looks at a job find it running."""

    def __init__(self) -> None:
        self.orders: list[dict[str, object]] = []
        self.asked: list[tuple[str, dict[str, object]]] = []
        self.failure: CommandFailed | None = None
        self.ending = job()
        self.running = 2
        self.doctor = DOCTOR
        self.moves = MOVES

    def post(self, kind: type, route: str, body: dict[str, object]) -> c.Job:
        assert route == "/v1/jobs"
        if self.failure is not None:
            raise self.failure
        self.orders.append(body)
        return job(state="running", progress="front.0.0.0 draining", message="")

    def get(self, kind: type, route: str, **query: object) -> object:
        self.asked.append((route, query))
        if self.failure is not None:
            raise self.failure
        if route == "/v1/jobs/1":
            self.running -= 1
            return self.ending if self.running < 0 else job(state="running", progress="draining")
        reason = c.Reason(kind="move", subject="e", text="because", time_unix_s=0.0)
        replies = {
            "/v1/jobs": c.Jobs(jobs=(self.ending,)),
            "/v1/moves": self.moves,
            "/v1/why": c.Why(peer_id="a", nickname="alder-aaaa", reasons=(reason,)),
            "/v1/ping": c.Ping(
                peer_id="b",
                nickname="birch-bbbb",
                rtt_s=0.02,
                jitter_s=0.001,
                up_bytes_per_s=3e6,
                down_bytes_per_s=4e6,
                clock_ahead_s=600.0,
            ),
            "/v1/doctor": self.doctor,
            "/v1/status": fake.status(),
            "/v1/rounds": round_schema.Rounds(rounds=()),
            "/v1/pipelines": schema.Pipelines(pipelines=(), gaps=()),
        }
        return replies[route]

    def events(self) -> list[schema.Event]:
        return [schema.Event(number=1, time_unix_s=0.0, kind="x.y", fields={}, degraded=False)]


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    daemon = Daemon()
    for module in (control_commands, doctor, top):
        monkeypatch.setattr(module, "open_client", lambda *_, **__: daemon)
    monkeypatch.setattr(control_commands, "POLL_S", 0.0)
    return daemon


@pytest.fixture
def run(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(*argv: str) -> int:
        monkeypatch.setattr("sys.argv", ["distqatctl", *argv])
        try:
            return cli.main()
        except SystemExit as end:
            return int(end.code or 0)

    return run


def test_a_drain_is_begun_watched_and_told(
    run: Run, daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("drain", "birch-bbbb", "--deadline", "9", "--force") == 0
    [order] = daemon.orders
    assert order == {
        "kind": "drain",
        "peer": "birch-bbbb",
        "stage": "",
        "auto": False,
        "deadline_s": 9.0,
        "force": True,
    }
    shown = capsys.readouterr()
    assert shown.out == "drain on birch-bbbb: front.0.0.0: left after 2.0 s\n"
    assert "front.0.0.0 draining" in shown.err


def test_detach_does_not_watch(
    run: Run, daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("resume", "--detach") == 0
    assert "follow it with: distqatctl jobs 1" in capsys.readouterr().out
    assert run("drain", "--detach", "--json") == 0
    assert json.loads(capsys.readouterr().out)["state"] == "running"
    assert daemon.asked == []


@pytest.mark.parametrize("code", [3, 5, 6, 7, 8])
def test_an_operation_that_failed_ends_the_command_with_its_exit_code(
    run: Run, daemon: Daemon, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    daemon.ending = job(state="failed", code="x", exit_code=code, message="it failed\nfix: wait")
    assert run("drain", "--json") == code
    shown = capsys.readouterr()
    assert json.loads(shown.out)["exit_code"] == code
    assert shown.err.endswith("error: it failed\nfix: wait\n")


def test_a_refusal_begins_nothing(run: Run, daemon: Daemon) -> None:
    daemon.failure = CommandFailed("the last replica", code=8)
    assert run("drain") == 8
    assert daemon.asked == []


def test_an_operation_that_does_not_end_is_left_to_itself(
    run: Run, daemon: Daemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(control_commands, "PATIENCE_S", -1000.0)
    daemon.running = 10_000
    assert run("drain") == 7
    assert "distqatctl jobs 1" in capsys.readouterr().err


def test_ctrl_c_ends_the_watching_alone(
    run: Run, daemon: Daemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(control_commands.time, "sleep", interrupt)
    assert run("drain") == 130
    assert "it goes on; follow it with: distqatctl jobs 1" in capsys.readouterr().err
    assert len(daemon.orders) == 1


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("--auto", "--stage", "back"),
        ("--dry-run",),
        ("--stage", "back", "--dry-run"),
        ("--auto", "--force"),
    ],
)
def test_a_reassign_needs_a_stage_or_auto(run: Run, daemon: Daemon, argv: tuple[str, ...]) -> None:
    assert run("reassign", "birch-bbbb", *argv) == 2
    assert daemon.orders == []


def test_a_reassign_goes_to_a_stage_or_where_the_swarm_needs_it(run: Run, daemon: Daemon) -> None:
    assert run("reassign", "birch-bbbb", "--stage", "back") == 0
    assert run("reassign", "--auto") == 0
    assert [(o["peer"], o["stage"], o["auto"]) for o in daemon.orders] == [
        ("birch-bbbb", "back", False),
        ("", "", True),
    ]


def test_a_dry_run_says_what_and_why_and_does_nothing(
    run: Run, daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("reassign", "--auto", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "back has no expert" in shown
    assert "next: distqatctl reassign --auto" in shown
    assert run("reassign", "birch-bbbb", "--auto", "--dry-run") == 0
    assert "next: distqatctl reassign birch-bbbb --auto" in capsys.readouterr().out
    assert daemon.asked[-1] == ("/v1/moves", {"peer": "birch-bbbb"})
    daemon.moves = c.Moves(moves=(), reason="every stage has two")
    assert run("reassign", "--auto", "--dry-run") == 0
    assert "nothing to move: every stage has two" in capsys.readouterr().out
    assert daemon.orders == []


def test_jobs_are_listed_or_one_is_followed(
    run: Run, daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("jobs") == 0
    assert "drain on birch-bbbb" in capsys.readouterr().out
    assert run("jobs", "1") == 0
    assert "left after 2.0 s" in capsys.readouterr().out


def test_why_and_ping_answer_in_words_and_as_json(
    run: Run, daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("why", "alder-aaaa") == 0
    assert "because" in capsys.readouterr().out
    assert run("ping", "birch-bbbb") == 0
    shown = capsys.readouterr().out
    assert "rtt 20 ms" in shown
    assert "↑ 3.0 MB/s   ↓ 4.0 MB/s   its clock is 10 m 00 s ahead" in shown
    for command in (("why",), ("ping", "x"), ("jobs",), ("reassign", "--auto", "--dry-run")):
        assert run(*command, "--json") == 0
        assert json.loads(capsys.readouterr().out)["schema"].startswith("distqat.")
    assert daemon.asked[0] == ("/v1/why", {"peer": "alder-aaaa"})


def test_the_doctor_exits_with_3_when_something_is_not_well(
    run: Run, daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("doctor") == 3
    shown = capsys.readouterr().out
    assert "▲ disk" in shown
    assert "fix: make room" in shown
    daemon.doctor = c.Doctor(checks=DOCTOR.checks[:1])
    assert run("doctor", "--json") == 0


def test_the_doctor_looks_at_the_machine_when_no_daemon_runs(
    run: Run, daemon: Daemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start = c.Check(name="start", verdict="error", detail="port taken", fix="--port 29710")
    monkeypatch.setattr(doctor, "check_start", lambda: start)
    daemon.failure = CommandFailed("no daemon answers", code=4)
    assert run("doctor", "--socket", "/nowhere/at/all/api.sock") == 3
    shown = capsys.readouterr().out
    assert "port taken" in shown
    assert "fix: start one: distqatd --role monitor" in shown
    daemon.failure = CommandFailed("it belongs to another user", code=6)
    assert run("doctor") == 6


def test_top_shows_status_pipelines_and_events(
    run: Run, daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("top", "--times", "1") == 0
    shown = capsys.readouterr().out
    assert "SWARM digits" in shown
    assert "no pipeline is in use" in shown
    assert "x.y" in shown
