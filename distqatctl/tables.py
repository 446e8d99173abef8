"""Replies as text for people; on a terminal with colour, else as plain aligned columns."""

import sys
from collections.abc import Sequence
from datetime import datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from distqatctl import text
from distqatd.api import schema

_PLAIN_WIDTH = 10_000
"""Columns assumed where there is no terminal: what is piped must not be cut."""

_GOOD, _BAD, _DIM = "green", "yellow", "dim"


def console() -> Console:
    """Return where tables go: standard output as it is now."""
    width = None if sys.stdout.isatty() else _PLAIN_WIDTH
    return Console(width=width, highlight=False, markup=False, emoji=False)


def _cell(value: object, style: str = "") -> Text:
    return Text(text.clean(str(value)), style=style)


def _table(*headers: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    for header in headers:
        table.add_column(header, no_wrap=True)
    return table


def _row(table: Table, *cells: object) -> None:
    table.add_row(*[cell if isinstance(cell, Text) else _cell(cell) for cell in cells])


def _state(state: str, *, good: bool) -> Text:
    return _cell(f"{'●' if good else '▲'} {state}", _GOOD if good else _BAD)


def show_status(out: Console, status: schema.Status) -> None:
    """Print the swarm, its stages, this daemon, and what is not well."""
    out.print(_headline(status))
    if status.stages:
        out.print(_stage_table(status.stages))
    for gap in status.gaps:
        out.print(_cell(f"▲ gap in {gap.stage}: {gap.reason}   next: {gap.suggestion}", _BAD))
    if status.client is not None:
        out.print(_duty_line(status.client))
    out.print(_own_line(status))
    for reason in status.degraded:
        out.print(_cell(f"▲ {reason}", _BAD))


def _duty_line(duty: schema.Duty) -> Text:
    return _cell(f"{duty.nickname} has the client's duty, term {duty.term}")


def _headline(status: schema.Status) -> Text:
    training = status.training
    line = Text.assemble(("SWARM ", "bold"), _cell(status.swarm.name))
    if training is None:
        return line.append("   no run")
    good = training.state in {"training", "averaging", "finished"}
    parts = (
        f"outer step {training.outer_step}/{training.outer_steps}",
        f"loss {text.loss_text(training.loss)}",
        f"{text.number(training.samples_per_s)} samples/s",
        ", ".join(
            [text.plural(training.num_pipelines, "pipeline")]
            + ([text.plural(len(status.gaps), "gap")] if status.gaps else [])
        ),
    )
    line.append("  ").append(_state(training.state, good=good))
    return line.append("   " + "   ".join(parts))


def _stage_table(stages: Sequence[schema.Stage]) -> Table:
    table = _table("STAGE", "REPLICAS", "STATE", "LAST OUTER STEP", "")
    words = {None: "", True: "replicas identical", False: "replicas differ"}
    for stage in stages:
        identical = _cell(
            words[stage.replicas_identical], _BAD if stage.replicas_identical is False else _DIM
        )
        state = _state(stage.state, good=stage.state == "ok")
        age = text.ago(stage.last_outer_step_age_s)
        _row(table, stage.name, stage.num_replicas, state, age, identical)
    return table


def _own_line(status: schema.Status) -> Text:
    peer = status.peer
    line = Text.assemble(
        ("PEER ", "bold"), _cell(f"{peer.nickname} (you)  {', '.join(peer.roles)}")
    )
    line.append("  ").append(_state(peer.state, good=peer.state == "serving"))
    for expert in status.experts:
        speed = f"{text.number(expert.samples_per_s)} samples/s"
        step = f"step {text.number(expert.inner_step)}"
        line.append(_cell(f"   {expert.uid} {expert.state} {step} {speed}"))
    line.append(f"   {peer.reachability}   up {text.duration(peer.uptime_s)}")
    return line


def show_peers(out: Console, peers: schema.Peers, now_unix_s: float) -> None:
    """Print the other daemons."""
    table = _table("PEER", "ROLES", "STATE", "EXPERTS", "RTT", "IN", "OUT", "SEEN", "ADDRESS")
    for peer in peers.peers:
        _row(
            table,
            peer.nickname,
            ",".join(peer.roles),
            _state(peer.state, good=peer.state == "serving"),
            ",".join(peer.experts) or "-",
            "-" if peer.rtt_s is None else f"{peer.rtt_s * 1000:.1f} ms",
            text.bytes_text(peer.bytes_in),
            text.bytes_text(peer.bytes_out),
            text.ago(max(0.0, now_unix_s - peer.last_seen_unix_s)),
            peer.addresses[0] if peer.addresses else "-",
        )
    out.print(table if peers.peers else "no other peer is known")


def show_pipelines(out: Console, pipelines: schema.Pipelines) -> None:
    """Print the routes in use, then the gaps with what fills them."""
    table = _table("TRAINER", "STEP", "LOSS", "SAMPLES/S", "ROUTE")
    for pipeline in pipelines.pipelines:
        route = " → ".join(f"{hop.uid} ({hop.nickname})" for hop in pipeline.hops)
        loss = text.loss_text(pipeline.loss)
        speed = text.number(pipeline.samples_per_s)
        _row(table, pipeline.trainer, text.number(pipeline.inner_step), loss, speed, route)
    out.print(table if pipelines.pipelines else "no pipeline is in use")
    if pipelines.client is not None:
        out.print(_duty_line(pipelines.client))
    for gap in pipelines.gaps:
        out.print(_cell(f"▲ gap in {gap.stage}: {gap.reason}   next: {gap.suggestion}", _BAD))


def show_rounds(out: Console, rounds: schema.Rounds) -> None:
    """Print rounds with their outcome."""
    table = _table(
        "OUTER STEP", "STAGE", "OUTCOME", "MEMBERS", "MISSING", "BYTES", "TIME", "REASON"
    )
    for record in rounds.rounds:
        _row(
            table,
            record.outer_step,
            record.stage,
            _state(record.outcome, good=record.outcome == "committed"),
            len(record.members),
            len(record.missing),
            text.bytes_text(record.bytes_sent),
            text.duration(record.seconds),
            record.reason,
        )
    out.print(table if rounds.rounds else "no round yet")


def event_line(event: schema.Event) -> Text:
    """Return an event as one line in local time."""
    when = datetime.fromtimestamp(event.time_unix_s).astimezone().strftime("%H:%M:%S")
    fields = "  ".join(f"{key}={value}" for key, value in event.fields.items())
    mark = "▲" if event.degraded else " "
    return _cell(f"{when} {mark} {event.kind}  {fields}", _BAD if event.degraded else "")


def show_run(out: Console, run: schema.RunInfo) -> None:
    """Print a run's progress."""
    evaluation = run.eval
    accuracy = evaluation.accuracy if evaluation else None
    rows = {
        "run": f"{run.name} ({run.run_id})",
        "state": run.state,
        "config digest": run.config_digest,
        "outer step": f"{run.outer_step}/{run.outer_steps}",
        "inner steps": text.number(run.inner_steps),
        "samples/s": text.number(run.samples_per_s),
        "loss": text.loss_text(evaluation.loss if evaluation else None),
        "accuracy": "-" if accuracy is None else f"{accuracy:.1%}",
        "batches": ", ".join(f"{n} {name}" for name, n in run.batches.model_dump().items()),
    }
    table = _table("", "")
    table.show_header = False
    for name, value in rows.items():
        _row(table, name, value)
    out.print(table)
