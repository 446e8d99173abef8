"""Batches from the process that makes them to the one that trains, through a ring and a pipe.

The ring is what a data server does: the batch is copied into shared memory, and a packet of a
hundred bytes each way says where it lies. The pipe is what torch's and Python's own process pools
do: pickle, and the bytes through the kernel. Both ends are counted: user and system time of both
processes, and the time of a batch on the clock. The batches are uint8 pixels; what a trainer makes
of them (floats, normalised) is the same for both, and measured by itself.
"""

import time
from math import prod

import torch

from distqatd.config.sections import DataConfig
from distqatd.data.batches import Finish
from distqatd.data.source import Raw
from tests.bench import children
from tests.bench.measure import cpu_s, p50, timed
from tests.bench.report import Report

SIZES = {"0.8 MB": (64, 3, 64, 64), "8 MB": (64, 3, 204, 204)}
"""Batches of 64 images; bytes are the product."""

BYTES, QUICK_BYTES = 4 << 30, 128 << 20
"""So much is handed over each way: CPU time is counted in steps of 10 ms."""


def run(report: Report, *, quick: bool, peer_python: str | None) -> None:
    """Measure everything and fill the report."""
    torch.set_num_threads(1)
    for what, shape in SIZES.items():
        spent = {}
        count = (QUICK_BYTES if quick else BYTES) // prod(shape)
        for way in ("ring", "pipe"):
            with children.ours("data", way, *map(str, shape)) as consumer:
                spent[way] = _hand_over(report, consumer, what, way, count)
        name = what.replace(".", "_").replace(" ", "").lower()
        report.ratio(f"pipe_vs_ring_{name}_cpu", spent["pipe"] / max(spent["ring"], 1e-6))
        finish = Finish.of(DataConfig(num_channels=3), 0, shape[0])
        times = [timed(lambda f=finish, s=shape: f.training(batch(s), 0)) for _ in range(10)]
        report.row(f"batch of {what}", "made floats of", cpu_ms=1e3 * p50(times))


def batch(shape: tuple[int, ...]) -> Raw:
    """Return images and labels."""
    return (torch.full(shape, 7, dtype=torch.uint8),), (torch.zeros(shape[0], dtype=torch.int64),)


def _hand_over(report: Report, consumer: children.Child, what: str, way: str, count: int) -> float:
    """Have the consumer take `count` batches; return the CPU seconds of one, of both ends."""
    consumer.ask("take", count=5)
    producer = consumer.ready["producer"]
    before, began = _cpu(consumer.pid, producer), time.perf_counter()
    consumer.ask("take", count=count)
    wall = (time.perf_counter() - began) / count
    spent = (_cpu(consumer.pid, producer) - before) / count
    report.row(f"batch of {what}", way, cpu_ms=1e3 * spent, wall_ms=1e3 * wall)
    return spent


def _cpu(*pids: int) -> float:
    return sum(map(cpu_s, pids))
