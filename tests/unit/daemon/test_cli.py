"""The command line of distqatd: what it takes, prints and exits with."""

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

from distqatd.base.errors import DeviceUnavailable, JoinFailed
from distqatd.daemon import cli
from distqatd.daemon.options import Options


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISTQAT_JOIN", "INITIAL_PEERS", "DISTQAT_STATE_DIR", "STATE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Options]:
    """Replace the daemon by one that only notes what it was started with."""
    options: list[Options] = []

    async def run(given: Options) -> int:
        options.append(given)
        return 0

    app = types.ModuleType("distqatd.daemon.app")
    app.run = run  # type: ignore[attr-defined]
    _install(monkeypatch, app)
    return options


def _install(monkeypatch: pytest.MonkeyPatch, app: types.ModuleType) -> None:
    import distqatd.daemon

    monkeypatch.setitem(sys.modules, "distqatd.daemon.app", app)
    monkeypatch.setattr(distqatd.daemon, "app", app, raising=False)


def _failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    async def run(given: Options) -> int:
        raise error

    app = types.ModuleType("distqatd.daemon.app")
    app.run = run  # type: ignore[attr-defined]
    _install(monkeypatch, app)


@pytest.mark.parametrize(
    ("arguments", "roles"),
    [
        ([], ("monitor", "client")),
        (["--join", "a:1"], ("expert",)),
        (["--role", "trainer,monitor"], ("monitor", "trainer")),
        (["--role", "client", "--role", "monitor", "--role", "client"], ("monitor", "client")),
    ],
)
def test_roles_come_from_the_flags_or_follow_from_join(
    started: list[Options], arguments: list[str], roles: tuple[str, ...]
) -> None:
    assert cli.main(arguments) == 0
    assert started[0].roles == roles


def test_initial_peers_in_the_environment_make_an_expert(
    started: list[Options], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INITIAL_PEERS", "/ip4/10.0.0.1/tcp/29700,b:2")
    assert cli.main([]) == 0
    assert started[0].roles == ("expert",)
    assert len(started[0].config.network.join) == 2


def test_what_the_daemon_gets_is_what_was_given(started: list[Options], tmp_path: Path) -> None:
    cli.main(
        ["--state-dir", str(tmp_path), "--log-file", "x.log", "--parent-fd", "5", "-v", "--port=0"]
    )
    options = started[0]
    assert (options.state_dir, options.log_file) == (tmp_path, Path("x.log"))
    assert (options.parent_fd, options.verbose) == (5, True)
    assert options.origins == {"network.port": "--port"}


def test_under_systemd_the_state_directory_is_used(
    started: list[Options], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/distqat:/other")
    cli.main([])
    assert started[0].state_dir == Path("/var/lib/distqat")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--diloco-inner-step", "3"], "did you mean --diloco-inner-steps?"),
        (["--role", "expret"], "did you mean expert?"),
        (["surplus"], "unknown argument surplus"),
        (["--check", "--schema"], "not allowed with"),
    ],
)
def test_a_wrong_command_line_exits_with_2_and_a_hint(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--diloco-inner-steps", "many"], "expected a whole number from 1"),
        (["--set", "diloco.inner_stepz=3"], "did you mean inner_steps?"),
        (["--set", "nonsense"], "expected KEY=VALUE"),
        (["--config", "/nowhere/x.yaml"], "No such file"),
        (["--seed", "[broken"], "not a YAML value"),
    ],
)
def test_a_bad_configuration_exits_with_78_without_a_traceback(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert cli.main(arguments) == 78
    captured = capsys.readouterr().err
    assert message in captured
    assert "Traceback" not in captured


def test_a_traceback_is_shown_with_v(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["-v", "--set", "nonsense"]) == 78
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DeviceUnavailable("no CUDA here; use --device cpu"), 78, "use --device cpu"),
        (JoinFailed("none of the 2 peers answered"), 69, "none of the 2 peers"),
        (ExceptionGroup("tasks", [JoinFailed("nobody")]), 69, "nobody"),
        (ZeroDivisionError("oops"), 1, "this is a bug"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_an_error_of_the_daemon_becomes_a_message_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    message: str,
) -> None:
    _failing(monkeypatch, error)
    assert cli.main(["--role", "monitor"]) == code
    captured = capsys.readouterr().err
    assert message in captured
    assert "Traceback" not in captured


def test_show_config_as_json_names_where_a_value_came_from(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["--show-config", "--json", "--seed", "9"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["values"]["seed"], shown["origins"]["seed"]) == (9, "--seed")


def test_show_config_with_origins_is_yaml_with_comments(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["--show-config", "--origin", "--seed", "9"]) == 0
    assert "seed: 9  # --seed" in capsys.readouterr().out


def test_the_schema_is_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--schema"]) == 0
    assert "properties" in json.loads(capsys.readouterr().out)


def test_errors_are_also_json_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--show-config", "--json", "--seed", "x"]) == 78
    shown = json.loads(capsys.readouterr().out)
    assert (shown["ok"], shown["error"]["code"]) == (False, "config")


def test_help_and_show_config_start_without_torch() -> None:
    code = (
        "import sys; from distqatd.daemon.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "main(['--show-config'])\n"
        "heavy = {'torch', 'datasets', 'wandb', 'transformers', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
