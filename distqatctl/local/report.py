"""The report of a local run, and the same in words."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from distqatctl import text
from distqatctl.errors import DEGRADED, OK
from distqatctl.local.watch import Snapshot
from distqatd.api.local_schema import KillReport, LocalReport, ReportExpert, ReportStage
from distqatd.api.schema import RunInfo, Stage


def report_stage(stage: Stage, num_replicas: int) -> ReportStage:
    """Return a stage's replicas; identical means: all of them there, one step, one digest."""
    experts = tuple(
        ReportExpert(
            uid=expert.uid,
            peer_id=expert.peer_id,
            anchor_digest=expert.anchor_digest,
            outer_step=expert.outer_step,
        )
        for expert in stage.experts
    )
    anchors = {(expert.outer_step, expert.anchor_digest) for expert in experts}
    identical = len(experts) >= num_replicas and len(anchors) == 1 and all(d for _, d in anchors)
    return ReportStage(name=stage.name, experts=experts, replicas_identical=identical)


def make_report(  # noqa: PLR0913  everything that a report says
    snapshot: Snapshot,
    run: RunInfo,
    *,
    replicas: Mapping[str, int],
    launched_unix_s: float,
    wall_s: float,
    processes: int,
    leftovers: Sequence[str],
    kill: KillReport | None = None,
    resumed_from: int | None = None,
) -> LocalReport:
    """Put together what the swarm said last and what was seen of its processes.

    Args:
        snapshot: the last look at the swarm.
        run: its run.
        replicas: how many each stage should have.
        launched_unix_s: when the first daemon was started.
        wall_s: from then to the end of the run.
        processes: the most that were seen at once.
        leftovers: what the daemons left behind.
        kill: what came of killing one.
        resumed_from: the outer step of the checkpoint it went on from.
    """
    first = run.first_step_unix_s
    return LocalReport(
        eval=run.eval,
        stages=tuple(report_stage(s, replicas.get(s.name, 1)) for s in snapshot.stages),
        outer_steps=run.outer_step,
        inner_steps=run.inner_steps,
        batches=run.batches,
        samples_per_s=run.samples_per_s,
        wall_s=round(wall_s, 3),
        time_to_first_step_s=None if first is None else round(max(0.0, first - launched_unix_s), 3),
        processes=processes,
        leftovers=tuple(leftovers),
        kill=kill,
        resumed_from=resumed_from,
    )


def problems(report: LocalReport) -> list[str]:
    """Return what is wrong with a run that came to its end."""
    batches = report.batches
    found = [
        f"{stage.name}: replicas differ" for stage in report.stages if not stage.replicas_identical
    ]
    found += [] if report.eval is not None else ["the anchor was not evaluated"]
    found += [f"{batches.lost} batches lost"] if batches.lost else []
    found += [f"{batches.duplicated} batches counted twice"] if batches.duplicated else []
    if report.kill is not None and report.kill.verdict != "recovered":
        found.append(f"the swarm did not recover: {report.kill.reason}")
    found += [f"left behind: {thing}" for thing in report.leftovers]
    return found


def exit_code(report: LocalReport) -> int:
    """Return 0 for a clean run, 3 for one that has a problem."""
    return DEGRADED if problems(report) else OK


def verdict(kill: KillReport) -> str:
    """Return what came of a kill, in one line."""
    who = f"{kill.daemon} ({kill.uid})" if kill.uid else kill.daemon
    if kill.recovery_s is None:
        return f"{who}: NOT RECOVERED, {kill.reason}"
    stall_s = kill.others_stall_s
    others = "" if stall_s is None else f"; the others never waited over {text.duration(stall_s)}"
    return f"{who}: recovered in {text.duration(kill.recovery_s)}, {kill.reason}{others}"


def summary(report: LocalReport, log_dir: Path) -> str:
    """Return the report for people."""
    first = report.time_to_first_step_s
    lines = [
        f"trained {text.plural(report.outer_steps, 'outer step')}"
        f" ({text.number(report.inner_steps)} inner steps) in {text.duration(report.wall_s)},"
        f" {text.number(report.samples_per_s)} samples/s"
        + ("" if first is None else f"; first step after {text.duration(first)}")
    ]
    if report.resumed_from is not None:
        lines.append(f"  resumed   from the checkpoint of outer step {report.resumed_from}")
    if report.eval is not None:
        accuracy = report.eval.accuracy
        shown = "" if accuracy is None else f"accuracy {accuracy:.1%}, "
        if report.eval.mean_return is not None:
            shown += f"mean return {report.eval.mean_return:.0f}, "
        lines.append(f"  anchor    {shown}loss {report.eval.loss:.4f} on the validation samples")
    for stage in report.stages:
        word = "identical" if stage.replicas_identical else "DIFFERENT"
        lines.append(f"  {stage.name:<9} {text.plural(len(stage.experts), 'replica')}, {word}")
    counts = report.batches.model_dump().items()
    lines.append("  batches   " + ", ".join(f"{count} {name}" for name, count in counts))
    if report.kill is not None:
        lines.append(f"  kill      {verdict(report.kill)}")
    lines.append(f"  processes {report.processes}, left behind {len(report.leftovers) or 'none'}")
    lines.append(f"  logs      {log_dir}")
    return "\n".join(lines + [f"▲ {problem}" for problem in problems(report)])
