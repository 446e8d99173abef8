import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel

from distqatctl import cli
from distqatctl.client import default_socket
from distqatctl.errors import CommandFailed
from distqatd.api import schema
from tests.support import fake_provider as fake

Run = Callable[..., int]


class _Client:
    replies: dict[str, BaseModel | CommandFailed]

    def __init__(self, path: Path) -> None:
        pass

    def get(self, kind: type[BaseModel], route: str, **query: object) -> BaseModel:
        reply = self.replies[route]
        if isinstance(reply, Exception):
            raise reply
        return reply

    def events(self, *, since: int, follow: bool) -> list[schema.Event]:
        kinds = ["peer.joined", "round.aborted"]
        return [
            schema.Event(number=n, time_unix_s=0.0, kind=kind, fields={}, degraded=False)
            for n, kind in enumerate(kinds)
        ]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(*argv: str, **replies: BaseModel | CommandFailed) -> int:
        _Client.replies = {f"/v1/{name}": reply for name, reply in replies.items()}
        monkeypatch.setattr(cli, "Client", _Client)
        monkeypatch.setattr("sys.argv", ["distqatctl", *argv])
        try:
            return cli.main()
        except SystemExit as end:
            return int(end.code or 0)

    return run


def test_status_exits_with_0_when_all_is_well_and_3_when_not(run: Run) -> None:
    assert run("status", status=fake.status()) == 0
    assert run("status", status=fake.status(degraded=("no GPU",))) == 3
    assert run("status", status=fake.status(gaps=(fake.GAP,))) == 3


def test_json_is_the_reply_with_its_schema(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("status", "--json", status=fake.status()) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(fake.status().to_json())
    assert run("run", "show", "--json", run=fake.run_info()) == 0
    assert json.loads(capsys.readouterr().out)["config"] == {"diloco": {"inner_steps": 50}}
    assert run("version", "--json") == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "distqat.version/v1"
    assert run("events", "--json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["peer.joined", "round.aborted"]


def test_the_invite_is_printed_alone_to_be_pasted(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    invite = schema.Invite(text="dq1:x", command="distqatd --role expert --join dq1:x")
    assert run("invite", invite=invite) == 0
    assert capsys.readouterr().out == "distqatd --role expert --join dq1:x\n"


def test_an_error_is_a_message_a_fix_and_an_exit_code(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = CommandFailed("no daemon answers", code=4, fix="start one")
    assert run("peers", peers=failure) == 4
    assert capsys.readouterr().err == "error: no daemon answers\nfix: start one\n"


def test_a_wrong_command_line_exits_with_2(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("staus") == 2
    assert run("rounds", "--limit", "0") == 2
    assert "limit" in capsys.readouterr().err


def test_a_bug_is_called_one_and_has_its_traceback_only_with_v(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("status") == 1
    assert "this is a bug" in (err := capsys.readouterr().err)
    assert "Traceback" not in err
    assert run("-v", "status") == 1
    assert "Traceback" in capsys.readouterr().err


def test_help_names_every_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    shown = capsys.readouterr().out
    for command in "local status peers pipelines rounds events invite run config version".split():
        assert f"  {command}" in shown
    assert "69 could not join" in shown


def test_the_socket_is_found_where_the_daemon_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platformdirs.user_state_path", lambda name: tmp_path / name)
    monkeypatch.setattr("distqatctl.client.SERVICE_STATE_DIR", tmp_path / "service")
    assert default_socket({"DISTQAT_STATE_DIR": "/s"}) == Path("/s/api.sock")
    assert default_socket({}) == tmp_path / "distqat/api.sock"
    (tmp_path / "service").mkdir()
    (tmp_path / "service/api.sock").touch()
    assert default_socket({}) == tmp_path / "service/api.sock"
    (tmp_path / "distqat").mkdir()
    (tmp_path / "distqat/api.sock").touch()
    assert default_socket({}) == tmp_path / "distqat/api.sock"
