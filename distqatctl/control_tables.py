"""Operations, reasons, pings and checks as text for people."""

from datetime import datetime

from rich.console import Console
from rich.text import Text

from distqatctl import text
from distqatctl.cells import BAD, cell, mark, row, table
from distqatd.api import control_schema as c


def show_jobs(out: Console, jobs: c.Jobs) -> None:
    """Print operations with how they stand or ended."""
    shown = table("NUMBER", "WHAT", "STATE", "TIME", "")
    for job in jobs.jobs:
        state = mark(job.state, good=job.state != "failed")
        told = job.progress or job.message
        row(shown, job.number, job.what, state, text.duration(job.seconds), told)
    out.print(shown if jobs.jobs else "no operation is remembered")


def show_moves(out: Console, moves: c.Moves, peer: str = "") -> None:
    """Print what would move, and why; of `peer` only, if it was named."""
    shown = table("EXPERT", "PEER", "FROM", "TO", "BECAUSE")
    for move in moves.moves:
        row(shown, move.uid, move.nickname, move.from_stage, move.to_stage, move.reason)
    if moves.moves:
        out.print(shown)
        out.print(cell(" ".join(("next: distqatctl reassign", *peer.split(), "--auto"))))
    else:
        out.print(cell(f"nothing to move: {moves.reason}"))


def show_why(out: Console, why: c.Why) -> None:
    """Print reasons, the newest first."""
    shown = table("WHEN", "WHAT", "ABOUT", "BECAUSE")
    for reason in why.reasons:
        row(shown, _time(reason.time_unix_s), reason.kind, reason.subject, reason.text)
    out.print(shown if why.reasons else cell(f"{why.nickname} has decided nothing yet"))


def _time(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def show_ping(out: Console, ping: c.Ping) -> None:
    """Print the way to a peer."""
    parts = [
        f"{ping.nickname}  rtt {text.duration(ping.rtt_s)}",
        f"varies by {text.duration(ping.jitter_s)}",
    ]
    if ping.up_bytes_per_s is not None and ping.down_bytes_per_s is not None:
        parts.append(f"↑ {text.bytes_text(ping.up_bytes_per_s)}/s")
        parts.append(f"↓ {text.bytes_text(ping.down_bytes_per_s)}/s")
    if abs(ping.clock_ahead_s) > max(1.0, ping.rtt_s):
        side = "ahead" if ping.clock_ahead_s > 0 else "behind"
        parts.append(f"its clock is {text.duration(abs(ping.clock_ahead_s))} {side}")
    out.print(cell("   ".join(parts)))


def show_doctor(out: Console, doctor: c.Doctor) -> None:
    """Print every check, with the fix for what is not well."""
    for check in doctor.checks:
        good = check.verdict == "ok"
        line = mark(check.name.ljust(13), good=good)
        out.print(line.append(Text(text.clean(check.detail), style="" if good else BAD)))
        if check.fix:
            out.print(cell(f"    fix: {check.fix}"))
