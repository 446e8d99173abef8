"""`python -m tests.sim`: run or replay scenarios. Exits 1 and names the seeds that fail."""

import argparse
import logging
import os
import subprocess
import sys
import time
from collections import Counter

from tests.sim.registry import find, scenarios
from tests.sim.sim import Scenario, SimFailure, run
from tests.sim.trace import Trace


def main(arguments: list[str]) -> int:
    """Run what the command line asks for; return the exit status."""
    options = _parser().parse_args(arguments)
    # What daemons log is part of a replay, and noise in a sweep.
    logging.basicConfig(level=logging.DEBUG if options.trace else logging.CRITICAL + 1)
    if options.list:
        print("\n".join(scenarios()))
        return 0
    if options.jobs > 1:
        return _spread(arguments, options)
    chosen = {options.scenario: find(options.scenario)} if options.scenario else scenarios()
    num_failed = 0
    for name, scenario in chosen.items():
        num_failed += _sweep(name, scenario, options)
    return 1 if num_failed else 0


def _spread(arguments: list[str], options: argparse.Namespace) -> int:
    """Run every n-th seed in a process of its own; return the highest exit status."""
    seeds, jobs = options.seeds, options.jobs
    parts = [f"{seeds[i]}:{seeds.stop}:{jobs}" for i in range(min(jobs, len(seeds)))]
    command = [sys.executable, "-m", "tests.sim", *arguments, "--jobs", "1", "--seeds"]
    processes = [subprocess.Popen([*command, part]) for part in parts]
    return max(process.wait() for process in processes)


def _sweep(name: str, scenario: Scenario, options: argparse.Namespace) -> int:
    """Run one scenario over all seeds; return how many failed."""
    began_s = time.process_time()
    totals: Counter[str] = Counter()
    failed = [seed for seed in options.seeds if not _run_one(scenario, seed, options, totals)]
    cpu_s = time.process_time() - began_s
    verdict = f"FAILED with seeds {' '.join(map(str, failed))}" if failed else "ok"
    print(f"{name}: {len(options.seeds)} seeds in {cpu_s:.1f} CPU-s, {verdict}", flush=True)
    if totals:
        print("  " + ", ".join(f"{key} {value}" for key, value in totals.items()), flush=True)
    return len(failed)


def _run_one(
    scenario: Scenario, seed: int, options: argparse.Namespace, totals: "Counter[str]"
) -> bool:
    trace = Trace(keep_lines=options.trace)
    try:
        report = run(scenario, seed, trace=trace)
    except SimFailure as failure:
        _print_trace(trace)
        if options.trace:
            raise
        print(failure, file=sys.stderr, flush=True)
        return False
    _print_trace(trace)
    if isinstance(report.value, dict):
        totals.update({key: n for key, n in report.value.items() if isinstance(n, int)})
    if len(options.seeds) == 1:
        print(f"seed {seed}: trace {report.trace}, {report.virtual_s:.1f} virtual seconds")
        print(f"  {report.counts}")
    return True


def _print_trace(trace: Trace) -> None:
    for line in trace.lines or ():
        print(line)


def _seeds(text: str) -> range:
    return range(*(int(number) for number in text.split(":")))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--scenario", help="a name from --list, or MODULE:FUNCTION; default all")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--seed", dest="seeds", type=lambda text: range(int(text), int(text) + 1))
    chosen.add_argument("--seeds", metavar="A:B[:STEP]", type=_seeds, help="default 0:20")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the seeds")
    parser.add_argument("--trace", action="store_true", help="print deliveries and the traceback")
    parser.add_argument("--list", action="store_true", help="print the names of all scenarios")
    parser.set_defaults(seeds=range(20))
    return parser


if __name__ == "__main__":
    if "PYTHONHASHSEED" not in os.environ:
        # Sets of text iterate by a hash that Python salts per process: replay with one salt.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.sim", *sys.argv[1:]])
    sys.exit(main(sys.argv[1:]))
