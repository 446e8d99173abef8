"""`distqatctl checkpoint`: what the param mirror has kept; most of it works without a daemon."""

import subprocess
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from distqatctl import checkpoint_tables
from distqatctl.config_commands import DISTQATD
from distqatctl.errors import BUG, DEADLINE_PASSED, DEGRADED, CommandFailed
from distqatctl.options import JsonOption, SocketOption, open_client
from distqatd.api.checkpoint_schema import Checkpoints, Exported, Mirror, Sampled
from distqatd.api.schema import Reply
from distqatd.base.clock import SystemClock

R = TypeVar("R", bound=Reply)

POLL_S = 0.25


class Backend(StrEnum):
    """What reads an export of integers."""

    DISTQAT = "distqat"
    TORCHAO = "torchao"


app = typer.Typer(help="Checkpoints of the run.", no_args_is_help=True)

FolderHelp = "Folder of checkpoints, or one of them; default: the daemon's."


def _folder(given: Path | None, socket: Path | None) -> Path:
    """Return the folder that was named, else that of the daemon on this machine."""
    if given is not None:
        return given
    return Path(open_client(socket).get(Mirror, "/v1/mirror").folder)


def _ask_daemon_program(kind: type[R], *arguments: str) -> R:
    """Run `distqatd` for one answer: this program knows nothing of models and files."""
    command = [*DISTQATD, *arguments, "--json"]
    finished = subprocess.run(command, check=False, stdout=subprocess.PIPE)  # noqa: S603  our own program
    if finished.returncode:
        raise typer.Exit(finished.returncode)
    return kind.model_validate_json(finished.stdout)


@app.command("list")
def list_(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Folder; default: the daemon's.")
    ] = None,
    socket: SocketOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read and check every checkpoint of a folder; exits with 3 if one is corrupt."""
    root = _folder(folder, socket)
    found = _ask_daemon_program(Checkpoints, "--list-checkpoints", str(root))
    if as_json:
        print(found.to_json(indent=2))
    else:
        checkpoint_tables.show(found, SystemClock().now())
    if any(entry.state == "corrupt" for entry in found.checkpoints):
        raise typer.Exit(DEGRADED)


@app.command()
def now(
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for it.")] = 600.0,
    socket: SocketOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep a checkpoint as soon as all stages are at one outer step, and wait for it."""
    client = open_client(socket)
    before = client.get(Mirror, "/v1/mirror")
    mirror = client.post(Mirror, "/v1/mirror", {})
    deadline = time.monotonic() + timeout  # noqa: TID251  no loop here whose time could be asked
    shown = ""
    while mirror.number == before.number:
        if time.monotonic() > deadline:  # noqa: TID251
            raise CommandFailed(
                f"no checkpoint within {timeout:g} s ({mirror.activity}); it is still being kept",
                code=DEADLINE_PASSED,
                fix="look again with: distqatctl checkpoint list",
            )
        if mirror.activity != shown:
            shown = mirror.activity
            print(shown if shown != "idle" else "waiting for an outer step", file=sys.stderr)
        time.sleep(POLL_S)
        mirror = client.get(Mirror, "/v1/mirror")
    if as_json:
        print(mirror.to_json(indent=2))
    elif mirror.ok:
        print(mirror.text)
    if not mirror.ok:
        raise CommandFailed(mirror.text, code=BUG)


@app.command()
def export(
    target: Annotated[Path, typer.Argument(metavar="DIR|FILE", help="Where to write it.")],
    source: Annotated[Path | None, typer.Option("--from", metavar="DIR", help=FolderHelp)] = None,
    outer_step: Annotated[
        int | None, typer.Option(min=0, help="Not the newest, but this one.")
    ] = None,
    integers: Annotated[
        bool, typer.Option("--int", help="Quantised weights as packed integers with their steps.")
    ] = False,
    backend: Annotated[
        Backend | None, typer.Option(help="With --int: whose integers; distqat by default.")
    ] = None,
    socket: SocketOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a checkpoint as one safetensors file, with the names of the whole model."""
    if backend is not None and not integers:
        raise typer.BadParameter("--backend is about integers; give --int, too")
    root = _folder(source, socket)
    which = [] if outer_step is None else ["--outer-step", str(outer_step)]
    which += ["--int"] if integers else []
    which += [] if backend is None else ["--backend", backend.value]
    done = _ask_daemon_program(Exported, "--export-checkpoint", str(root), str(target), *which)
    if as_json:
        print(done.to_json(indent=2))
    else:
        print(checkpoint_tables.exported_text(done))


@app.command()
def sample(
    target: Annotated[Path, typer.Argument(metavar="FILE.png", help="Where to write them.")],
    source: Annotated[Path | None, typer.Option("--from", metavar="DIR", help=FolderHelp)] = None,
    outer_step: Annotated[
        int | None, typer.Option(min=0, help="Not the newest, but this one.")
    ] = None,
    number: Annotated[int, typer.Option(min=1, max=4096, help="How many images.")] = 64,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    socket: SocketOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw images from the diffusion model of a checkpoint, as a grid in one PNG file."""
    root = _folder(source, socket)
    which = [] if outer_step is None else ["--outer-step", str(outer_step)]
    which += ["--num-images", str(number), f"--draw={seed}"]
    done = _ask_daemon_program(Sampled, "--sample-checkpoint", str(root), str(target), *which)
    if as_json:
        print(done.to_json(indent=2))
    else:
        print(checkpoint_tables.sampled_text(done))
