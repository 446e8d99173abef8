"""`python -m tests.bench NAME`: measure one part of DistQat beside what it can be compared with.

See docs/benchmarks.md for what each row means.
"""

import argparse
import importlib
import os
import sys
import time
from pathlib import Path

from tests.bench.report import Report

NAMES = (
    "transport",
    "dht",
    "expert",
    "pipeline",
    "failover",
    "allreduce",
    "rounds",
    "diloco",
    "data",
    "quant",
)
EXTRA = {
    "kills": "failover",
    "data": "diloco",
    "only": "diloco",
    "seeds": "quant",
    "bits": "quant",
    "task": "quant",
    "keep": "quant",
}
"""Options that one bench takes."""


def main(arguments: list[str]) -> int:
    """Run one bench and print its report; return the exit status."""
    options = _parser().parse_args(arguments)
    # Before torch is imported: one thread each, so that the ends do not fight over the cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    began = time.perf_counter()
    bench = importlib.import_module(f"tests.bench.{options.name}")
    report = Report(options.name)
    more = {name: value for name in EXTRA if (value := getattr(options, name)) is not None}
    for name in more:
        if EXTRA[name] != options.name:
            _parser().error(f"--{name} is an option of {EXTRA[name]}")
    bench.run(report, quick=options.quick, peer_python=options.peer_python, **more)
    print(report.as_json() if options.json else report.as_table())
    if not options.json:
        load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
        took = time.perf_counter() - began
        print(f"\n{os.cpu_count()} CPUs, load average {load}, took {took:.0f} s")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="small and short: only to try it out")
    parser.add_argument(
        "--peer-python", metavar="PATH", help="a Python that has hivemind 1.1.12: measure it, too"
    )
    parser.add_argument("--kills", type=int, metavar="N", help="failover: kill so many, not 30")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="diloco: train on this text, such as tiny-shakespeare, not on Python's sources",
    )
    parser.add_argument(
        "--only", metavar="NAME", help="diloco: only the runs with this in the name"
    )
    parser.add_argument("--seeds", metavar="N,N", help="quant: instead of 0,1,2")
    parser.add_argument("--bits", metavar="N,N", help="quant: instead of 2,4,8")
    parser.add_argument("--task", metavar="NAME", help="quant: digits or gpt_bytes only")
    parser.add_argument(
        "--keep", metavar="FILE", help="quant: note there which runs have ended, and go on from it"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
