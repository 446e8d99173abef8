"""`distqatctl top`: status, pipelines, open rounds and the newest events, again and again."""

import time
from contextlib import suppress
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from distqatctl.cells import cell
from distqatctl.client import Client
from distqatctl.options import SocketOption, open_client
from distqatctl.round_tables import wait_lines
from distqatctl.tables import event_line, render_pipelines, render_status
from distqatd.api import schema
from distqatd.api.round_schema import Rounds

NUM_EVENTS = 10


def top(
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 1.0,
    times: Annotated[
        int | None, typer.Option(min=1, help="End after so many looks, not with Ctrl-C.")
    ] = None,
    socket: SocketOption = None,
) -> None:
    """Show the swarm live, until Ctrl-C."""
    client = open_client(socket)
    with suppress(KeyboardInterrupt):
        _watch(client, every, times)


def _watch(client: Client, every_s: float, times: int | None) -> None:
    out = Console(highlight=False, markup=False, emoji=False)
    looks = 0
    with Live(console=out, screen=out.is_terminal, auto_refresh=False) as live:
        while times is None or looks < times:
            live.update(_look(client), refresh=True)
            looks += 1
            if looks != times:
                time.sleep(every_s)


def _look(client: Client) -> Group:
    status = client.get(schema.Status, "/v1/status")
    pipelines = client.get(schema.Pipelines, "/v1/pipelines")
    rounds = client.get(Rounds, "/v1/rounds", limit=1)
    events = [*client.events()][-NUM_EVENTS:]
    return Group(
        render_status(status),
        Text(),
        render_pipelines(pipelines) if pipelines.pipelines else cell("no pipeline is in use"),
        *(cell(line) for line in wait_lines(rounds)),
        Text(),
        *(event_line(event) for event in events),
        cell("Ctrl-C ends", "dim"),
    )
