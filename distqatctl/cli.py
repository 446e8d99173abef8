"""The commands of `distqatctl`."""

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from distqatctl import (
    checkpoint_commands,
    config_commands,
    control_commands,
    round_tables,
    tables,
)
from distqatctl.client import Client, default_socket
from distqatctl.doctor import doctor
from distqatctl.errors import BUG, DEGRADED, EXIT_CODES, CommandFailed
from distqatctl.local.command import local
from distqatctl.options import JsonOption, SocketOption
from distqatctl.top import top
from distqatd import __version__
from distqatd.api import round_schema, schema
from distqatd.base.clock import SystemClock

app = typer.Typer(
    name="distqatctl",
    help="Look at a DistQat swarm and act on it.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
run_app = typer.Typer(help="The run the swarm works on.", no_args_is_help=True)
app.command()(local)
control_commands.register(app)
app.command()(doctor)
app.command()(top)
app.add_typer(run_app, name="run")
app.add_typer(config_commands.app, name="config")
app.add_typer(checkpoint_commands.app, name="checkpoint")


def _client(socket: Path | None) -> Client:
    return Client(socket or default_socket(os.environ))


def _print_json(reply: schema.Reply) -> None:
    print(reply.to_json(indent=2))


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Bugs with traceback.")] = False,
) -> None:
    """Look at a DistQat swarm and act on it."""


@app.command()
def status(socket: SocketOption = None, as_json: JsonOption = False) -> None:
    """Show this daemon, the swarm and the run; exits with 3 when something is not well."""
    reply = _client(socket).get(schema.Status, "/v1/status")
    if as_json:
        _print_json(reply)
    else:
        tables.show_status(tables.console(), reply)
    if reply.degraded or reply.gaps:
        raise typer.Exit(DEGRADED)


@app.command()
def peers(socket: SocketOption = None, as_json: JsonOption = False) -> None:
    """Show the other daemons of the swarm."""
    reply = _client(socket).get(schema.Peers, "/v1/peers")
    if as_json:
        return _print_json(reply)
    return tables.show_peers(tables.console(), reply, SystemClock().now())


@app.command()
def pipelines(socket: SocketOption = None, as_json: JsonOption = False) -> None:
    """Show which experts train together, and the gaps."""
    reply = _client(socket).get(schema.Pipelines, "/v1/pipelines")
    return _print_json(reply) if as_json else tables.show_pipelines(tables.console(), reply)


@app.command()
def rounds(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000)] = 20,
    socket: SocketOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the newest rounds: who took part, what it cost, how it ended and why."""
    reply = _client(socket).get(round_schema.Rounds, "/v1/rounds", limit=limit)
    return _print_json(reply) if as_json else round_tables.show_rounds(tables.console(), reply)


@app.command()
def events(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they happen.")] = False,
    since: Annotated[int, typer.Option(min=0, help="Only events above this number.")] = 0,
    socket: SocketOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what happened: joined, left, reassigned, rounds; with --json one object a line."""
    out = tables.console()
    for event in _client(socket).events(since=since, follow=follow):
        if as_json:
            print(event.to_json(), flush=True)
        else:
            out.print(tables.event_line(event), soft_wrap=True)


@app.command()
def invite(socket: SocketOption = None, as_json: JsonOption = False) -> None:
    """Print the command that lets another machine join; it holds the swarm's secret."""
    reply = _client(socket).get(schema.Invite, "/v1/invite")
    return _print_json(reply) if as_json else print(reply.command)


@run_app.command("show")
def run_show(socket: SocketOption = None, as_json: JsonOption = False) -> None:
    """Show the run's configuration digest and progress; --json has the whole configuration."""
    reply = _client(socket).get(schema.RunInfo, "/v1/run")
    return _print_json(reply) if as_json else tables.show_run(tables.console(), reply)


@app.command()
def version(as_json: JsonOption = False) -> None:
    """Print the version."""
    reply = schema.Version(version=__version__, python=sys.version.split()[0])
    return _print_json(reply) if as_json else print(f"distqatctl {reply.version}")


def main() -> int:
    """Run `distqatctl` and return its exit code; errors become messages, with a fix if known."""
    try:
        return int(app(standalone_mode=True) or 0)
    except CommandFailed as error:
        print(f"error: {error}", file=sys.stderr)
        if error.fix:
            print(f"fix: {error.fix}", file=sys.stderr)
        return error.code
    except Exception as error:  # noqa: BLE001  the last place that can turn a bug into a message
        verbose = bool({"-v", "--verbose"} & set(sys.argv[1:]))
        if verbose:
            traceback.print_exception(error)
        hint = "" if verbose else ", distqatctl -v ... shows the traceback"
        print(f"error: {type(error).__name__}: {error}; this is a bug{hint}", file=sys.stderr)
        return BUG
