"""The options of `distqatctl local`."""

import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from distqatctl.config_commands import SetOption, config_arguments
from distqatctl.local import baseline as oracle
from distqatctl.local import report as reports
from distqatctl.local.display import open_display
from distqatctl.local.plan import RunPlan, checkpoint_settings, read_plan
from distqatctl.local.session import LocalOptions, LocalRun
from distqatd.base.clock import SystemClock

DEFAULT_PRESET = "digits"


def local(  # noqa: PLR0913  one parameter for each option
    config: Annotated[
        list[str] | None,
        typer.Option(metavar="PRESET_OR_FILE", help=f"Default: {DEFAULT_PRESET}. Repeatable."),
    ] = None,
    values: SetOption = None,
    experts_per_stage: Annotated[
        int, typer.Option(min=1, max=64, help="Replicas of every stage, and pipelines.")
    ] = 2,
    outer_steps: Annotated[
        int | None, typer.Option(min=1, help="Instead of the configuration's.")
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the report there; - prints it."),
    ] = None,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Train the unsplit model in one process instead.")
    ] = False,
    kill_one: Annotated[
        bool,
        typer.Option("--kill-one", help="SIGKILL one daemon mid-run, and show the recovery."),
    ] = False,
    role: Annotated[
        Literal["expert", "trainer", "client", "monitor"] | None,
        typer.Option(help="What the daemon that --kill-one kills does; default: expert."),
    ] = None,
    checkpoints: Annotated[
        bool,
        typer.Option("--checkpoints", help="Keep checkpoints, in the run's log folder."),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue from the newest checkpoint; keeps more of them."),
    ] = False,
    run_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep state and checkpoints there (a short path)."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="Give up after this long.")
    ] = 900.0,
) -> None:
    """Train with a whole swarm of real daemons on this machine, then show what came out."""
    if role is not None and not kill_one:
        raise typer.BadParameter("--role names the victim of --kill-one")
    # What the user sets comes later and wins.
    mirror = checkpoint_settings(run_dir, keep=checkpoints, resume=resume)
    given = config_arguments(config or [DEFAULT_PRESET], [*mirror, *(values or ())])
    if outer_steps is not None:
        given += ["--set", f"diloco.outer_steps={outer_steps}"]
    plan = read_plan(given)
    if baseline:
        return _run_baseline(plan, given, json_file)
    kill = (role or "expert") if kill_one else None
    options = LocalOptions(tuple(given), experts_per_stage, timeout, run_dir, kill)
    report = LocalRun(plan, options, open_display(), SystemClock()).execute()
    _write(report.to_json(indent=2), json_file)
    if json_file != Path("-"):
        print(reports.summary(report, Path("logs") / plan.prefix))
    raise typer.Exit(reports.exit_code(report))


def _run_baseline(plan: RunPlan, given: list[str], json_file: Path | None) -> None:
    with tempfile.TemporaryDirectory(prefix="dq-baseline-") as folder:
        to_stdout = json_file == Path("-")
        target = Path(folder) / "report.json" if json_file is None or to_stdout else json_file
        result: dict[str, Any] = oracle.run_baseline(
            given, target, plan.outer_steps, open_display()
        )
        print(target.read_text() if to_stdout else oracle.summary(result))


def _write(text: str, json_file: Path | None) -> None:
    if json_file == Path("-"):
        print(text)
    elif json_file is not None:
        json_file.write_text(f"{text}\n")
