"""Options that most commands have, and the daemon they lead to."""

import os
from pathlib import Path
from typing import Annotated

import typer

from distqatctl.client import Client, default_socket

SocketOption = Annotated[
    Path | None,
    typer.Option(
        "--socket",
        envvar="DISTQAT_SOCKET",
        metavar="PATH",
        help="The daemon's unix socket; default: api.sock in its state folder.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the reply as JSON.")]


def open_client(socket: Path | None, *, timeout_s: float = 10.0) -> Client:
    """Return the daemon that was named, else this user's, else the system service."""
    return Client(socket or default_socket(os.environ), timeout_s=timeout_s)
