"""Clocks and summaries. All times are taken by whoever does the work, never by its child."""

import os
import statistics
import time
from collections.abc import Callable, Sequence

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process, user and system, all threads; 10 ms resolution."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def rss_bytes(pid: int | None = None) -> int:
    """Return the resident memory of a process."""
    with open(f"/proc/{pid or os.getpid()}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def timed(work: Callable[[], object]) -> float:
    """Return how many seconds `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def p50(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def p95(values: Sequence[float]) -> float:
    """Return the 95th percentile, at least one of the values."""
    return sorted(values)[min(len(values) - 1, int(0.95 * len(values)))]
