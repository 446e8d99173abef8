"""Store and get at 16 nodes, and the memory of a node at 1,000; all nodes in one process.

Every node has a UDP socket of its own on loopback, and verifies every record itself.
"""

from contextlib import ExitStack

from tests.bench import children
from tests.bench.measure import cpu_s, p50, p95
from tests.bench.report import Report

NODES = 16
MANY = 1000
OPERATIONS = 25


def run(report: Report, *, quick: bool, peer_python: str | None) -> None:
    """Measure everything and fill the report."""
    with ExitStack() as stack:
        swarms = {"distqat": stack.enter_context(children.ours("dht"))}
        if peer_python is not None:
            swarms["hivemind"] = stack.enter_context(children.peers("dht", peer_python))
        grown = {who: child.ask("grow", count=NODES) for who, child in swarms.items()}
        _operations(report, swarms, grown, quick=quick)
    _memory(report, 50 if quick else MANY)


def _operations(
    report: Report,
    swarms: dict[str, children.Child],
    grown: dict[str, dict[str, float]],
    *,
    quick: bool,
) -> None:
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(2 if quick else 8):
        for who, child in swarms.items():
            for what, answer in (
                ("store", child.ask("store", count=5 if quick else OPERATIONS)),
                ("get", child.ask("get")),
            ):
                if answer["failed"]:
                    raise RuntimeError(f"{answer['failed']} operations of {who} failed: {what}")
                times.setdefault((what, who), []).extend(answer["seconds"])
    for (what, who), values in sorted(times.items(), reverse=True):
        numbers = {"p50_ms": 1e3 * p50(values), "p95_ms": 1e3 * p95(values)}
        report.row(f"{what}, {NODES} nodes", who, **numbers)
    for who, child in swarms.items():
        numbers = {"kb_per_node": grown[who]["kb_per_node"], "cpu_s": cpu_s(child.pid)}
        report.row(f"memory, {NODES} nodes", who, **numbers)
    for what in ("store", "get"):
        ours = p50(times[what, "distqat"])
        report.ratio(f"n16_{what}_p50_ms", 1e3 * ours)
        if "hivemind" in swarms:
            report.ratio(f"n16_{what}_vs_hivemind", ours / p50(times[what, "hivemind"]))


def _memory(report: Report, count: int) -> None:
    """Measure in a fresh process, whose memory nothing else has touched."""
    with children.ours("dht") as swarm:
        swarm.ask("grow", count=2)  # imports and caches that the first nodes pay for all
        grown = swarm.ask("grow", count=count - 2)
        report.row(f"memory, {count} nodes", "distqat", **grown)
        report.ratio("n1000_kb_per_node", grown["kb_per_node"])
