"""The mean of 100 MB over four processes: our butterfly, gloo, hivemind; and on shaped links.

A round lasts from the first member's begin to the last one's end; kinds take turns, best of all
repetitions. `bytes` are what the busiest member wrote to its sockets, heads of frames included.
Shaped links have 200 Mbit/s each way and need root, for network namespaces: shaped by the kernel
without delay, by `ends.switch` with one; a machine without gets no such rows. Theory is what the
slowest link must carry, at its rate.
"""

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from distqatd.optim.slices import bandwidth_fractions
from tests.bench import children, kernel_links
from tests.bench.measure import p50
from tests.bench.report import Report

NUM = 4
NUM_VALUES = 25_000_000
MBIT = 1e6 / 8
LINK_MBIT = 200.0
SLOW_MBIT = 20.0
WARM_UP_ROUNDS = 2
KINDS = ("plain", "tls")


@dataclass(frozen=True, slots=True)
class Round:
    """What one round took."""

    seconds: float
    cpu_s: float
    most_bytes: int


class Group:
    """The processes of one measurement."""

    def __init__(self, ends: list[children.Child], hosts: list[str]) -> None:
        self._ends = ends
        self.measured = {kind: [0.0] * len(ends) for kind in KINDS}
        for kind in KINDS:
            addresses = [
                (host, end.ready["ports"][kind]) for host, end in zip(hosts, ends, strict=True)
            ]
            self._all("meet", kind=kind, addresses=addresses)

    def average(self, kind: str, codec: str, num_values: int, *, measured: bool = False) -> Round:
        """Run one round, with slices by what earlier rounds have measured, or equal ones."""
        known = self.measured[kind] if measured else [0.0] * len(self._ends)
        self._all("plan", kind=kind, codec=codec, num_values=num_values, bandwidths=known)
        answers = self._all("average", kind=kind)
        sent = self._all("sent", kind=kind)
        if len({answer["sum"] for answer in sent}) != 1:
            raise RuntimeError("the members do not hold the same mean")
        self.measured[kind] = [answer["bandwidth"] for answer in sent]
        return _round(answers, max(answer["bytes"] for answer in sent))

    def join_gloo(self) -> None:
        """Form gloo's group."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self._all("gloo_join", port=port)

    def gloo(self, num_values: int) -> Round:
        """Run one round of gloo's."""
        return _round(self._all("gloo_average", num_values=num_values), 0)

    def _all(self, do: str, **fields: object) -> list[dict[str, float]]:
        for end in self._ends:
            end.begin(do, **fields)
        return [end.answer() for end in self._ends]


def run(report: Report, *, quick: bool, peer_python: str | None) -> None:
    """Measure everything and fill the report."""
    num_values = NUM_VALUES // 50 if quick else NUM_VALUES
    repetitions = 2 if quick else 7
    idle = _loopback(report, num_values, repetitions)
    if peer_python is not None:
        _hivemind(report, peer_python, idle["tls"], num_values, 1 if quick else 3)
    if not _can_shape():
        print("no rows for shaped links: they need root, ip, tc and /dev/net/tun", file=sys.stderr)
        return
    _shaped(report, num_values, quick=quick)


def _loopback(report: Report, num_values: int, repetitions: int) -> dict[str, float]:
    rounds: dict[str, list[Round]] = {"plain": [], "tls": [], "gloo": []}
    with _group(["127.0.0.1"] * NUM, [None] * NUM, num_values) as group:
        group.join_gloo()
        for index in range(repetitions + 1):
            # Planned by what the rounds before have measured, as in a daemon.
            taken = {k: group.average(k, "fp32", num_values, measured=True) for k in KINDS}
            taken["gloo"] = group.gloo(num_values)
            for kind, one in taken.items() if index else ():  # the first makes the links
                rounds[kind].append(one)
    what = f"mean of {num_values * 4e-6:.0f} MB, {NUM} processes on loopback"
    for kind, taken_all in rounds.items():
        _row(report, what, kind, taken_all)
    best = {kind: min(one.seconds for one in taken_all) for kind, taken_all in rounds.items()}
    for kind in KINDS:
        report.ratio(f"{kind}_vs_gloo", best[kind] / best["gloo"])
    theory = 2 * (NUM - 1) / NUM * 4 * num_values
    report.ratio("bytes_vs_theory", max(one.most_bytes for one in rounds["plain"]) / theory)
    return best


def _hivemind(report: Report, python: str, tls_s: float, num_values: int, repetitions: int) -> None:
    with children.peers("allreduce", python, str(NUM), str(num_values)) as peer:
        times = [float(peer.ask("average")["seconds"]) for _ in range(repetitions)]
    what = f"mean of {num_values * 4e-6:.0f} MB, {NUM} processes on loopback"
    report.row(what, "hivemind", best_s=min(times), p50_s=p50(times))
    report.ratio("tls_vs_hivemind", tls_s / min(times))


def _shaped(report: Report, num_values: int, *, quick: bool) -> None:
    """Measure links of equal rate at two distances, then with one slow member."""
    even = [LINK_MBIT * MBIT] * NUM
    repetitions = 1 if quick else 2
    for rtt_ms in (0, 60):
        with _shaped_group(even, rtt_ms, num_values) as group:
            codecs = ("fp32", "int8") if rtt_ms == 0 else ("fp32",)
            best = {}
            for codec in codecs:
                group.average("tls", codec, num_values)  # links are made, and measured
                taken = [
                    group.average("tls", codec, num_values, measured=True)
                    for _ in range(repetitions)
                ]
                what = f"200 Mbit/s, {rtt_ms} ms, {num_values * 4e-6:.0f} MB"
                _row(report, what, f"tls {codec}", taken)
                best[codec] = min(one.seconds for one in taken)
        report.ratio(f"shaped_{rtt_ms}ms_vs_theory", _theory_s(even, num_values) / best["fp32"])
        if "int8" in best:
            report.ratio("int8_vs_fp32", best["int8"] / best["fp32"])
    _one_slow(report, num_values // 4)


def _one_slow(report: Report, num_values: int) -> None:
    rates = [LINK_MBIT * MBIT] * (NUM - 1) + [SLOW_MBIT * MBIT]
    with _shaped_group(rates, 0, num_values) as group:
        for _ in range(WARM_UP_ROUNDS):
            group.average("tls", "fp32", num_values // 2, measured=True)
        found = {f"mbit_{index}": rate / MBIT for index, rate in enumerate(group.measured["tls"])}
        taken = [group.average("tls", "fp32", num_values, measured=True)]
    what = f"200 Mbit/s, one member {SLOW_MBIT:.0f}, {num_values * 4e-6:.0f} MB"
    _row(report, what, "tls fp32", taken)
    report.row("lines as earlier rounds have measured them", "tls fp32", **found)
    report.ratio("slow_peer_vs_optimum", taken[0].seconds / _theory_s(rates, num_values))


def _theory_s(rates: list[float], num_values: int) -> float:
    """Return how long the busiest uplink takes with the best slices: 1 + f (n - 2) vectors."""
    fractions = bandwidth_fractions(rates)
    vectors = [1 - f + f * (len(rates) - 1) for f in fractions]
    return max(4 * num_values * v / rate for v, rate in zip(vectors, rates, strict=True))


@contextmanager
def _shaped_group(rates: list[float], rtt_ms: float, num_values: int) -> Iterator[Group]:
    names = [f"dqbench{os.getpid()}n{index}" for index in range(len(rates))]
    hosts = [f"10.99.0.{index + 1}" for index in range(len(rates))]
    ports = [
        # Two delays make one way, four a round trip.
        f"{name}={host},{rate / MBIT},{rtt_ms / 4}"
        for name, host, rate in zip(names, hosts, rates, strict=True)
    ]
    with ExitStack() as stack:
        if rtt_ms:  # the kernel has no delays here, and the switch takes our processors' time
            stack.enter_context(children.ours("switch", *ports))
        else:
            stack.enter_context(kernel_links.shaped(names, hosts, rates))
        yield stack.enter_context(_group(hosts, names, num_values))


@contextmanager
def _group(hosts: list[str], insides: list[str] | list[None], num_values: int) -> Iterator[Group]:
    with ExitStack() as stack:
        ends = []
        for rank, (host, inside) in enumerate(zip(hosts, insides, strict=True)):
            arguments = (str(rank), str(len(hosts)), str(num_values), host)
            child = children.ours("allreduce", *arguments, inside=inside)
            ends.append(stack.enter_context(child))
        yield Group(ends, hosts)


def _round(answers: list[dict[str, float]], most_bytes: float) -> Round:
    seconds = max(a["ended"] for a in answers) - min(a["began"] for a in answers)
    return Round(seconds, sum(a["cpu_s"] for a in answers), int(most_bytes))


def _row(report: Report, what: str, who: str, taken: list[Round]) -> None:
    times = [one.seconds for one in taken]
    cpu = p50([one.cpu_s for one in taken])
    sent_mb = max(one.most_bytes for one in taken) * 1e-6
    report.row(what, who, best_s=min(times), p50_s=p50(times), cpu_s=cpu, sent_mb=sent_mb)


def _can_shape() -> bool:
    has_tools = all(map(shutil.which, ("ip", "tc"))) and Path("/dev/net/tun").exists()
    return sys.platform == "linux" and os.geteuid() == 0 and has_tools
