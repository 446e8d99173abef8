"""Samples per CPU-second of a real two-stage pipeline, beside the same run unsplit.

One daemon each: monitor, client, trainer, and an expert per stage; one replica, everything over
TLS. What counts as the pipeline's CPU is that of the trainer and the experts, from some steps
after the first on; monitor and client, which serve the whole swarm, are shown apart. The baseline
is `distqatd.roles.baseline`: plain torch in one process. One thread per process. Both train the
same configuration, outer steps included, and take turns: the daemons are halted meanwhile.
"""

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from distqatd.config.layers import Override
from distqatd.config.load import load
from distqatd.config.sections import Config
from tests.bench import children
from tests.bench.report import Report
from tests.bench.swarm import Swarm, running

SOURCES = {"digits": "digits", "gpt": str(Path(__file__).parent / "gpt_1m.yaml")}
ENDLESS = "diloco.outer_steps=1000000"

TURN_S = 3.0
"""Short enough that nobody misses a heartbeat while the daemons are halted."""


@dataclass(slots=True)
class Spent:
    """What somebody did in its turns."""

    steps: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0

    def row(self, batch_size: int) -> dict[str, float]:
        """Return the columns of a report."""
        return {
            "samples_per_cpu_s": self.steps * batch_size / self.cpu_s,
            "cpu_ms_per_step": 1e3 * self.cpu_s / self.steps,
            "samples_per_s": self.steps * batch_size / self.wall_s,
            "steps": self.steps,
        }


def run(report: Report, *, quick: bool, peer_python: str | None) -> None:
    """Measure everything and fill the report; there is no such run elsewhere to compare with."""
    for name in ("digits",) if quick else ("digits", "gpt"):
        _measure(report, name, turns=1 if quick else 10, warm_up=5 if quick else 100)


def _measure(report: Report, name: str, *, turns: int, warm_up: int) -> None:
    source = SOURCES[name]
    key, _, value = ENDLESS.partition("=")
    config = load((source,), env={}, overrides=[Override(key, value, "bench")]).config
    given = ["--config", source, "--set", ENDLESS]
    with ExitStack() as stack:
        baseline = stack.enter_context(children.ours("baseline", *given))
        # As far as the swarm: steps get dearer as training goes on and subnormal numbers appear.
        baseline.ask("run", at_least=warm_up)
        swarm = stack.enter_context(running(given, _stages(config)))
        swarm.wait_for_step(warm_up)
        _report(report, name, config.diloco.batch_size, *_turns(swarm, baseline, turns))


def _stages(config: Config) -> tuple[str, ...]:
    return tuple(stage.stage for stage in config.model_pipeline.pipeline)


def _turns(
    swarm: Swarm, baseline: children.Child, turns: int
) -> tuple[Spent, Spent, dict[str, float]]:
    """Let both train in turn; return the baseline's and the swarm's work, and CPU by daemon."""
    plain, split = Spent(), Spent()
    first_step, before = swarm.inner_step(), swarm.cpu_s()
    for _ in range(turns):
        began = time.perf_counter()
        time.sleep(TURN_S)
        split.wall_s += time.perf_counter() - began
        with swarm.halted():
            done = baseline.ask("run", seconds=TURN_S)
        plain.steps += done["steps"]
        plain.cpu_s += done["cpu_s"]
        plain.wall_s += done["wall_s"]
    swarm.check()
    split.steps = swarm.inner_step() - first_step
    by_daemon = {name: spent - before[name] for name, spent in swarm.cpu_s().items()}
    split.cpu_s = sum(by_daemon[name] for name in swarm.workers)
    return plain, split, by_daemon


def _report(
    report: Report,
    name: str,
    batch_size: int,
    plain: Spent,
    split: Spent,
    by_daemon: dict[str, float],
) -> None:
    what = f"{name}, batch {batch_size}"
    report.row(what, "baseline", **plain.row(batch_size))
    report.row(what, "two stages", **split.row(batch_size))
    for daemon, spent in by_daemon.items():
        report.row(what, daemon, cpu_ms_per_step=1e3 * spent / split.steps)
    ratio = split.steps / split.cpu_s / (plain.steps / plain.cpu_s)
    report.ratio(f"{name}_per_cpu_s_vs_baseline", ratio)
