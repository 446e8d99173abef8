"""Replies as text for people; on a terminal with colour, else as plain aligned columns."""

from collections.abc import Sequence
from datetime import datetime

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from distqatctl import text
from distqatctl.cells import BAD, DIM, cell, mark, row, table
from distqatctl.cells import console as console
from distqatd.api import schema


def show_status(out: Console, status: schema.Status) -> None:
    """Print the swarm, its stages, this daemon, and what is not well."""
    out.print(render_status(status))


def render_status(status: schema.Status) -> Group:
    """Return what `show_status` prints."""
    parts: list[RenderableType] = [_headline(status)]
    if status.stages:
        parts.append(_stage_table(status.stages))
    parts += [_gap_line(gap) for gap in status.gaps]
    if status.client is not None:
        parts.append(_duty_line(status.client))
    parts.append(_own_line(status))
    parts += [cell(f"▲ {reason}", BAD) for reason in status.degraded]
    return Group(*parts)


def _gap_line(gap: schema.Gap) -> Text:
    return cell(f"▲ gap in {gap.stage}: {gap.reason}   next: {gap.suggestion}", BAD)


def _duty_line(duty: schema.Duty) -> Text:
    return cell(f"{duty.nickname} has the client's duty, term {duty.term}")


def _headline(status: schema.Status) -> Text:
    training = status.training
    line = Text.assemble(("SWARM ", "bold"), cell(status.swarm.name))
    if training is None:
        return line.append("   no run")
    good = training.state in {"training", "averaging", "finished"}
    parts = (
        f"outer step {training.outer_step}/{training.outer_steps}",
        f"loss {text.loss_text(training.loss)}",
        *([_eval_words(training.eval)] if training.eval is not None else []),
        f"{text.number(training.samples_per_s)} samples/s",
        ", ".join(
            [text.plural(training.num_pipelines, "pipeline")]
            + ([text.plural(len(status.gaps), "gap")] if status.gaps else [])
        ),
    )
    line.append("  ").append(mark(training.state, good=good))
    return line.append("   " + "   ".join(parts))


def _eval_words(found: schema.Eval) -> str:
    where = "" if found.outer_step is None else f" at {found.outer_step}"
    return f"anchor {text.loss_text(found.loss)}{where}"


def _stage_table(stages: Sequence[schema.Stage]) -> Table:
    shown = table("STAGE", "REPLICAS", "STATE", "LAST OUTER STEP", "")
    words = {None: "", True: "replicas identical", False: "replicas differ"}
    for stage in stages:
        identical = cell(
            words[stage.replicas_identical], BAD if stage.replicas_identical is False else DIM
        )
        state = mark(stage.state, good=stage.state == "ok")
        age = text.ago(stage.last_outer_step_age_s)
        leaving = f" ({stage.num_draining} draining)" if stage.num_draining else ""
        row(shown, stage.name, f"{stage.num_replicas}{leaving}", state, age, identical)
    return shown


def _own_line(status: schema.Status) -> Text:
    peer = status.peer
    line = Text.assemble(("PEER ", "bold"), cell(f"{peer.nickname} (you)  {', '.join(peer.roles)}"))
    line.append("  ").append(mark(peer.state, good=peer.state == "serving"))
    for expert in status.experts:
        speed = f"{text.number(expert.samples_per_s)} samples/s"
        step = f"step {text.number(expert.inner_step)}"
        line.append(
            cell(f"   {expert.uid} {expert.state} {step} {speed}{_sync_words(expert.syncs)}")
        )
    line.append(f"   {peer.reachability}   up {text.duration(peer.uptime_s)}")
    return line


def _sync_words(syncs: schema.Syncs) -> str:
    if not syncs.committed:
        return ""
    took, sent = text.duration(syncs.seconds), text.bytes_text(syncs.bytes_sent)
    rate = f"{syncs.mbit_per_s:.1f} Mbit/s"
    return f", {text.plural(syncs.committed, 'outer step')} in {took}, {sent} sent, {rate}"


def show_peers(out: Console, peers: schema.Peers, now_unix_s: float) -> None:
    """Print the other daemons."""
    shown = table("PEER", "ROLES", "STATE", "EXPERTS", "RTT", "IN", "OUT", "SEEN", "ADDRESS")
    for peer in peers.peers:
        row(
            shown,
            peer.nickname,
            ",".join(peer.roles),
            mark(peer.state, good=peer.state == "serving"),
            ",".join(peer.experts) or "-",
            "-" if peer.rtt_s is None else f"{peer.rtt_s * 1000:.1f} ms",
            text.bytes_text(peer.bytes_in),
            text.bytes_text(peer.bytes_out),
            text.ago(max(0.0, now_unix_s - peer.last_seen_unix_s)),
            peer.addresses[0] if peer.addresses else "-",
        )
    out.print(shown if peers.peers else "no other peer is known")


def show_pipelines(out: Console, pipelines: schema.Pipelines) -> None:
    """Print the routes in use, then the gaps with what fills them."""
    out.print(render_pipelines(pipelines) if pipelines.pipelines else "no pipeline is in use")
    if pipelines.client is not None:
        out.print(_duty_line(pipelines.client))
    for gap in pipelines.gaps:
        out.print(_gap_line(gap))


def render_pipelines(pipelines: schema.Pipelines) -> Table:
    """Return the routes in use."""
    shown = table("TRAINER", "STEP", "LOSS", "SAMPLES/S", "LINKS/STEP", "ROUTE")
    for pipeline in pipelines.pipelines:
        route = " → ".join(f"{hop.uid} ({hop.nickname})" for hop in pipeline.hops)
        loss = text.loss_text(pipeline.loss)
        speed = text.number(pipeline.samples_per_s)
        links = text.bytes_text(pipeline.link_bytes)
        row(shown, pipeline.trainer, text.number(pipeline.inner_step), loss, speed, links, route)
    return shown


def eval_line(found: schema.Eval) -> str:
    """Return an evaluation of an anchor in a line."""
    step = "" if found.outer_step is None else f" of outer step {found.outer_step}"
    parts = [f"loss {text.loss_text(found.loss)}"]
    parts += [] if found.accuracy is None else [f"accuracy {found.accuracy:.1%}"]
    parts += [] if found.mean_return is None else [f"return {found.mean_return:.1f}"]
    return f"anchor{step}: {', '.join(parts)} on the validation samples"


def event_line(event: schema.Event) -> Text:
    """Return an event as one line in local time."""
    when = datetime.fromtimestamp(event.time_unix_s).astimezone().strftime("%H:%M:%S")
    fields = "  ".join(f"{key}={value}" for key, value in event.fields.items())
    sign = "▲" if event.degraded else " "
    return cell(f"{when} {sign} {event.kind}  {fields}", BAD if event.degraded else "")


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
    shown = table("", "")
    shown.show_header = False
    for name, value in rows.items():
        row(shown, name, value)
    out.print(shown)
