"""`distqatctl doctor`: what is wrong with this machine or its daemon, each with the fix."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import typer

from distqatctl import control_tables
from distqatctl.cells import console
from distqatctl.client import default_socket
from distqatctl.config_commands import DISTQATD
from distqatctl.errors import DEGRADED, NO_DAEMON, CommandFailed
from distqatctl.options import JsonOption, SocketOption, open_client
from distqatd.api.control_schema import Check, Doctor

ASK_S = 75.0
CHECK_WITHIN_S = 120.0
LITTLE_DISK_BYTES = 5 << 30


def doctor(socket: SocketOption = None, as_json: JsonOption = False) -> None:
    """Check Python, device, port, reachability, clock, disk and versions; exits with 3 if not well.

    A daemon that runs checks itself; where none does, the machine is checked for starting one.
    """
    path = socket or default_socket(os.environ)
    try:
        found = open_client(path, timeout_s=ASK_S).get(Doctor, "/v1/doctor")
    except CommandFailed as error:
        if error.code != NO_DAEMON:
            raise
        found = Doctor(checks=without_daemon(path, str(error)))
    if as_json:
        print(found.to_json(indent=2))
    else:
        control_tables.show_doctor(console(), found)
    if any(check.verdict != "ok" for check in found.checks):
        raise typer.Exit(DEGRADED)


def without_daemon(path: Path, error: str) -> tuple[Check, ...]:
    """Return what can be said of a machine on which no daemon runs."""
    return (
        Check(name="python", verdict="ok", detail=f"{platform.python_version()} {sys.platform}"),
        check_start(),
        check_disk(_existing(path.parent)),
        Check(
            name="daemon",
            verdict="warning",
            detail=error,
            fix="start one: distqatd --role monitor --role client, or join one: distqatctl invite "
            "on a member prints how",
        ),
    )


def check_start() -> Check:
    """Have `distqatd --check` look at configuration, model, device and port."""
    command = [*DISTQATD, "--check", "--role", "expert"]
    try:
        done = subprocess.run(  # noqa: S603  our own program
            command, check=False, capture_output=True, text=True, timeout=CHECK_WITHIN_S
        )
    except subprocess.TimeoutExpired:
        detail = f"distqatd --check did not end within {CHECK_WITHIN_S:g} s"
        return Check(name="start", verdict="error", detail=detail, fix="try it by itself")
    if done.returncode == 0:
        lines = [line.removeprefix("ok: ") for line in done.stdout.splitlines()]
        return Check(name="start", verdict="ok", detail="; ".join(lines))
    message = done.stderr.strip().removeprefix("error: ")
    detail, _, fix = message.partition("\nfix: ")
    return Check(name="start", verdict="error", detail=detail, fix=fix or "distqatd --check -v")


def check_disk(folder: Path) -> Check:
    """Say how much room there is for state."""
    free = shutil.disk_usage(folder).free
    detail = f"{free / 1e9:.1f} GB free of {folder}"
    if free >= LITTLE_DISK_BYTES:
        return Check(name="disk", verdict="ok", detail=detail)
    return Check(name="disk", verdict="warning", detail=detail, fix="make room")


def _existing(folder: Path) -> Path:
    """Return the folder, or the first of those around it that exists."""
    return next(each for each in (folder, *folder.absolute().parents) if each.exists())
