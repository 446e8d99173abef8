"""Outer steps as text for people."""

from collections.abc import Sequence

from rich.console import Console

from distqatctl import text
from distqatctl.cells import cell, mark, row, table
from distqatctl.tables import eval_line
from distqatd.api import round_schema as r


def show_rounds(out: Console, rounds: r.Rounds) -> None:
    """Print rounds with their outcome."""
    shown = table("OUTER STEP", "STAGE", "OUTCOME", "MEMBERS", "MISSING", "BYTES", "TIME", "REASON")
    for record in rounds.rounds:
        row(
            shown,
            number(record),
            record.stage,
            mark(record.outcome, good=record.outcome == "committed"),
            len(record.members),
            len(record.missing),
            text.bytes_text(record.bytes_sent),
            text.duration(record.seconds),
            record.reason,
        )
    out.print(shown if rounds.rounds else "no round yet")
    for line in slicing_lines(rounds.rounds):
        out.print(cell(line))
    for line in wait_lines(rounds):
        out.print(cell(line))
    if rounds.eval is not None:
        out.print(eval_line(rounds.eval))


def number(record: r.Round) -> str:
    """Return which outer step a round was about, and which fragment where it took one."""
    part = f" (fragment {record.fragment})" if record.fragment is not None else ""
    return f"{record.outer_step}{part}"


def slicing_lines(rounds: Sequence[r.Round]) -> list[str]:
    """Return for each stage why the slices of its newest round were as they were."""
    newest = {record.stage: record for record in rounds if record.slicing}
    return [f"{stage}: {record.slicing}" for stage, record in newest.items()]


def wait_lines(rounds: r.Rounds) -> list[str]:
    """Return the open rounds, each with how far its exchange is."""
    return [
        line for wait in rounds.waits for line in (wait_line(wait), *exchange_lines(wait)) if line
    ]


def exchange_lines(wait: r.RoundWait) -> list[str]:
    """Return how far the exchange of an open round is, in all and for each owner."""
    if not wait.slices:
        return []
    done = sum(each.bytes_done for each in wait.slices)
    total = sum(each.num_bytes for each in wait.slices)
    behind = ", ".join(wait.behind) or "nobody"
    head = f"  {wait.chunks_done} of {wait.chunks} chunks, {_of(done, total)}; behind: {behind}"
    return [head, *(f"    from {each.owner}: {_slice_words(each)}" for each in wait.slices)]


def _slice_words(part: r.SliceProgress) -> str:
    done = f"{part.chunks_done} of {part.chunks} chunks"
    return f"{done}, {_of(part.bytes_done, part.num_bytes)}"


def _of(done: int, total: int) -> str:
    share = done / total if total else 1.0
    return f"{text.bytes_text(done)} of {text.bytes_text(total)} ({share:.0%})"


def wait_line(wait: r.RoundWait) -> str:
    """Return an open round in a line: whom it waits for, and how long it will."""
    whom = ", ".join(wait.waiting_for) or "nobody"
    left = text.duration(wait.seconds_left)
    num = len(wait.ready)
    where = f"outer step {wait.outer_step} of {wait.stage} is {wait.phase}"
    return f"{where}: {num} ready, waits for {whom}, {left} at most"
