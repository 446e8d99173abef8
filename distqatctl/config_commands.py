"""`distqatctl config`: what the daemon on this machine would run with, asked from itself."""

import subprocess
import sys
from typing import Annotated

import typer

from distqatctl.options import JsonOption

app = typer.Typer(help="Configuration files and their values.", no_args_is_help=True)

ConfigOption = Annotated[
    list[str] | None,
    typer.Option("--config", metavar="PRESET_OR_FILE", help="Preset or YAML file; repeatable."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One value, such as diloco.inner_steps=200."),
]

DISTQATD = (sys.executable, "-m", "distqatd")
"""The command that runs `distqatd` of this very installation."""


def config_arguments(config: list[str] | None, values: list[str] | None) -> list[str]:
    """Return `--config` and `--set` as `distqatd` takes them."""
    files = [part for name in config or () for part in ("--config", name)]
    return files + [part for value in values or () for part in ("--set", value)]


def _pass_to_daemon(*arguments: str) -> None:
    finished = subprocess.run([*DISTQATD, *arguments], check=False)  # noqa: S603  our own program
    raise typer.Exit(finished.returncode)


@app.command()
def show(
    config: ConfigOption = None,
    values: SetOption = None,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value is from.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the merged configuration."""
    flags = ["--origin"] * origin + ["--json"] * as_json
    _pass_to_daemon("--show-config", *flags, *config_arguments(config, values))


@app.command()
def validate(
    files: Annotated[list[str] | None, typer.Argument(metavar="[PRESET_OR_FILE]...")] = None,
    values: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check configuration, model and device; exits with 78 if a daemon could not use them."""
    # Port 0: a daemon that runs now must not make a good file look bad.
    ports = ("--port", "0", "--api-port", "0")
    flags = ["--json"] * as_json
    _pass_to_daemon("--check", *flags, *config_arguments(files, values), *ports)


@app.command()
def schema() -> None:
    """Print the JSON Schema of configuration files, for editors."""
    _pass_to_daemon("--schema")
