"""The commands that act: drain, resume, reassign; and what became of them: jobs, why, ping.

An operation belongs to the daemon. A command only begins it and watches: Ctrl-C ends the watching.
"""

import sys
import time
from typing import Annotated

import typer
from rich.console import Console

from distqatctl import control_tables
from distqatctl.cells import console
from distqatctl.client import Client
from distqatctl.errors import DEADLINE_PASSED, INTERRUPTED, USAGE, CommandFailed
from distqatctl.interrupts import Interrupts
from distqatctl.options import JsonOption, SocketOption, open_client
from distqatctl.text import clean
from distqatd.api import control_schema as c
from distqatd.api.schema import Reply

POLL_S = 0.25
PATIENCE_S = 180.0
"""After its deadline an operation may load a stage, or hear of another machine: seconds."""

ASK_S = 75.0
"""Another machine is asked first, or its bandwidth measured: a reply may take so long, seconds."""

PeerArgument = Annotated[
    str,
    typer.Argument(
        metavar="[PEER]", help="Nickname, peer id or expert; default: this machine's daemon."
    ),
]
DeadlineOption = Annotated[
    float,
    typer.Option("--deadline", min=0, max=86400, help="Seconds until what is left is cut off."),
]
DetachOption = Annotated[bool, typer.Option("--detach", help="Do not wait; see: distqatctl jobs.")]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Also the last replica of a stage: training stops.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (drain, resume, reassign, jobs, why, ping):
        app.command()(command)


def drain(
    peer: PeerArgument = "",
    deadline: DeadlineOption = 120.0,
    detach: DetachOption = False,
    force: ForceOption = False,
    socket: SocketOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a machine's experts out without losing work; its daemon stays."""
    request = c.OrderRequest(kind="drain", peer=peer, deadline_s=deadline, force=force)
    _carry_out(socket_client(socket), request, detach=detach, as_json=as_json)


def resume(
    peer: PeerArgument = "",
    detach: DetachOption = False,
    socket: SocketOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a drain back: have the experts serve again."""
    request = c.OrderRequest(kind="resume", peer=peer)
    _carry_out(socket_client(socket), request, detach=detach, as_json=as_json)


def reassign(  # noqa: PLR0913  one parameter per option
    peer: PeerArgument = "",
    stage: Annotated[str, typer.Option("--stage", metavar="S", help="The stage to serve.")] = "",
    auto: Annotated[
        bool, typer.Option("--auto", help="What the swarm needs most; without PEER: all of it.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --auto: say what and why, do nothing.")
    ] = False,
    deadline: DeadlineOption = 120.0,
    detach: DetachOption = False,
    force: ForceOption = False,
    socket: SocketOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have an expert serve another stage, in place."""
    if auto == bool(stage) or (dry_run and not auto):
        raise CommandFailed(
            "to reassign, say --stage S, or --auto (and with it --dry-run)", code=USAGE
        )
    if auto and force:
        raise CommandFailed(
            "--force goes with --stage S: --auto never takes a stage's last replica", code=USAGE
        )
    client = socket_client(socket)
    if dry_run:
        moves = client.get(c.Moves, "/v1/moves", peer=peer)
        return _print(moves) if as_json else control_tables.show_moves(console(), moves, peer)
    request = c.OrderRequest(
        kind="reassign", peer=peer, stage=stage, auto=auto, deadline_s=deadline, force=force
    )
    return _carry_out(client, request, detach=detach, as_json=as_json)


def jobs(
    number: Annotated[
        int | None, typer.Argument(metavar="[N]", help="Wait for this one to end.")
    ] = None,
    socket: SocketOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the operations of this daemon, or follow one to its end."""
    client = socket_client(socket)
    if number is not None:
        return _follow(client, client.get(c.Job, f"/v1/jobs/{number}"), as_json=as_json)
    found = client.get(c.Jobs, "/v1/jobs")
    return _print(found) if as_json else control_tables.show_jobs(console(), found)


def why(peer: PeerArgument = "", socket: SocketOption = None, as_json: JsonOption = False) -> None:
    """Show why a daemon did last what it did: placement, route, round, move."""
    found = socket_client(socket).get(c.Why, "/v1/why", peer=peer)
    return _print(found) if as_json else control_tables.show_why(console(), found)


def ping(
    peer: Annotated[str, typer.Argument(metavar="PEER", help="Nickname, peer id or expert.")],
    bandwidth: Annotated[
        bool, typer.Option(help="Send 4 MiB each way, and measure how fast.")
    ] = True,
    socket: SocketOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the way to a peer: round trip and bandwidth."""
    wanted = str(bandwidth).lower()
    found = socket_client(socket).get(c.Ping, "/v1/ping", peer=peer, bandwidth=wanted)
    return _print(found) if as_json else control_tables.show_ping(console(), found)


def socket_client(socket: SocketOption) -> Client:
    """Return the daemon, with the patience that asking other machines needs."""
    return open_client(socket, timeout_s=ASK_S)


def _print(reply: Reply) -> None:
    print(reply.to_json(indent=2))


def _carry_out(client: Client, request: c.OrderRequest, *, detach: bool, as_json: bool) -> None:
    job = client.post(c.Job, "/v1/jobs", request.model_dump())
    if not detach:
        return _follow(client, job, as_json=as_json)
    if as_json:
        return _print(job)
    return print(f"{clean(job.what)}: begun; follow it with: distqatctl jobs {job.number}")


def _follow(client: Client, job: c.Job, *, as_json: bool) -> None:
    """Wait for the end of an operation, tell it, and exit as it ended."""
    try:
        job = _watched(client, job)
    except KeyboardInterrupt:
        print(f"it goes on; follow it with: distqatctl jobs {job.number}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        _print(job)
    if job.exit_code:
        message, _, fix = job.message.partition("\nfix: ")
        raise CommandFailed(clean(message), code=job.exit_code, fix=clean(fix) or None)
    if not as_json:
        print(f"{clean(job.what)}: {clean(job.message)}")


def _watched(client: Client, job: c.Job) -> c.Job:
    """Return the operation as it ended, and show meanwhile where it stands."""
    out = Console(stderr=True, highlight=False, markup=False, emoji=False)
    until = time.monotonic() + job.deadline_s + PATIENCE_S  # noqa: TID251  no loop to ask
    shown = ""
    with Interrupts() as interrupts, out.status(job.what) as status:
        interrupts.on_signal = _interrupt
        while job.state == "running":
            if interrupts.count:  # raised where it was swallowed, in a destructor for example
                _interrupt()
            line = f"{clean(job.what)}: {clean(job.progress)}"
            if line != shown and out.is_terminal:
                status.update(line)
            elif line != shown:
                out.print(line, soft_wrap=True)
            shown = line
            if time.monotonic() > until:  # noqa: TID251
                raise CommandFailed(
                    f"{job.what} has not ended; it goes on ({job.progress})",
                    code=DEADLINE_PASSED,
                    fix=f"look again with: distqatctl jobs {job.number}",
                )
            time.sleep(POLL_S)
            job = client.get(c.Job, f"/v1/jobs/{job.number}")
    return job


def _interrupt() -> None:
    raise KeyboardInterrupt
