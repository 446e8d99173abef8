import json
import subprocess

import pytest

from distqatctl import checkpoint_commands, cli
from distqatd.api.checkpoint_schema import CheckpointEntry, Checkpoints, Exported, LeftOut
from tests.support.fake_provider import mirror

LISTED = Checkpoints(
    folder="/kept",
    checkpoints=(
        CheckpointEntry(outer_step=4, folder="/kept/4", state="corrupt", reason="bit rot"),
        CheckpointEntry(
            outer_step=3,
            folder="/kept/3",
            state="ok",
            published_unix_s=0.0,
            num_bytes=4_200_000,
            num_batches=120,
        ),
    ),
)
EXPORTED = Exported(file="m.st", run="digits", outer_step=3, num_tensors=8, num_bytes=1000)


class Daemon:
    """Stands in for a daemon's API and for the `distqatd` program."""

    def __init__(self, monkeypatch):
        self.mirrors = [mirror()]
        self.posted = 0
        self.commands = []
        self.answer = LISTED
        self.exit_code = 0
        monkeypatch.setattr(checkpoint_commands, "open_client", lambda _: self)
        monkeypatch.setattr(checkpoint_commands.subprocess, "run", self.program)
        monkeypatch.setattr(checkpoint_commands, "POLL_S", 0.0)

    def get(self, kind, route):
        assert route == "/v1/mirror"
        return self.mirrors.pop(0) if len(self.mirrors) > 1 else self.mirrors[0]

    def post(self, kind, route, body):
        self.posted += 1
        return self.get(kind, route)

    def program(self, command, **_):
        self.commands.append(command[3:])
        return subprocess.CompletedProcess(command, self.exit_code, self.answer.to_json().encode())


@pytest.fixture
def daemon(monkeypatch):
    return Daemon(monkeypatch)


@pytest.fixture
def run(monkeypatch):
    def run(*argv):
        monkeypatch.setattr("sys.argv", ["distqatctl", "checkpoint", *argv])
        try:
            return cli.main()
        except SystemExit as end:
            return int(end.code or 0)

    return run


def test_a_list_shows_the_state_of_each_and_exits_with_3_if_one_is_corrupt(daemon, run, capsys):
    assert run("list") == 3
    assert daemon.commands == [["--list-checkpoints", "/kept", "--json"]]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["OUTER", "STEP", "AGE", "SIZE", "BATCHES", "STATE"]
    assert lines[1].split() == ["4", "-", "-", "-", "corrupt:", "bit", "rot"]
    assert lines[2].endswith("4.2 MB   120       ok")
    assert lines[3] == "in /kept"


def test_a_list_of_a_named_folder_needs_no_daemon(daemon, run, capsys):
    daemon.get = None
    daemon.answer = Checkpoints(folder="/mine", checkpoints=())
    assert run("list", "/mine") == 0
    assert daemon.commands == [["--list-checkpoints", "/mine", "--json"]]
    assert capsys.readouterr().out == "no checkpoint in /mine\n"
    assert run("list", "/mine", "--json") == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "distqat.checkpoints/v1"


def test_now_waits_and_says_what_goes_on(daemon, run, capsys):
    fetching = mirror(activity="fetching outer step 4, 1.0 MB")
    done = mirror(number=2, outer_step=4, text="outer step 4 is kept in /kept/4")
    daemon.mirrors = [mirror(), mirror(asked=True), fetching, fetching, done]
    assert run("now") == 0
    assert daemon.posted == 1
    shown = capsys.readouterr()
    assert shown.out == "outer step 4 is kept in /kept/4\n"
    assert shown.err == "waiting for an outer step\nfetching outer step 4, 1.0 MB\n"


def test_now_fails_with_the_mirrors_own_words(daemon, run, capsys):
    daemon.mirrors = [mirror(), mirror(number=2, ok=False, text="the disk is full")]
    assert run("now") == 1
    assert capsys.readouterr().err == "error: the disk is full\n"


def test_now_gives_up_at_its_deadline(daemon, run, capsys):
    assert run("now", "--timeout", "0") == 7
    assert "it is still being kept" in capsys.readouterr().err


def test_an_export_is_done_by_the_daemons_program(daemon, run, capsys):
    daemon.answer = EXPORTED
    assert run("export", "m.st", "--from", "/mine", "--outer-step", "3") == 0
    assert daemon.commands == [
        ["--export-checkpoint", "/mine", "m.st", "--outer-step", "3", "--json"]
    ]
    assert capsys.readouterr().out == "m.st: outer step 3 of digits, 8 tensors, 1.0 KB\n"
    assert run("export", "m.st", "--json") == 0
    assert daemon.commands[1] == ["--export-checkpoint", "/kept", "m.st", "--json"]
    daemon.exit_code = 78
    assert run("export", "m.st") == 78


def test_an_export_for_torchao_says_which_layers_it_has_not(daemon, run, capsys):
    left = (LeftOut(reason="torchao has no Conv1D", modules=("h.0", "h.1")),)
    daemon.answer = EXPORTED.model_copy(update={"left": left})
    assert run("export", "m.st", "--from", "/mine", "--int", "--backend", "torchao") == 0
    (command,) = daemon.commands
    assert command[-4:] == ["--int", "--backend", "torchao", "--json"]
    assert capsys.readouterr().out.splitlines()[1] == "2 layers: torchao has no Conv1D: h.0, h.1"
    assert run("export", "m.st", "--from", "/mine", "--backend", "torchao") == 2
    assert "give --int, too" in capsys.readouterr().err
