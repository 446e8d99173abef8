"""What a bench says: one JSON object for programs, a table for people."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

SCHEMA = "distqat.bench/v1"

HIGHER = "higher"
LOWER = "lower"

TARGETS: dict[str, tuple[str, float]] = {
    "plain_1mib_vs_raw": (HIGHER, 0.8),
    "plain_16mib_vs_raw": (HIGHER, 0.8),
    "plain_64mib_vs_raw": (HIGHER, 0.8),
    "tls_16mib_vs_ssl": (HIGHER, 0.75),
    "n1000_kb_per_node": (LOWER, 100.0),
    "fwdbwd_vs_local": (LOWER, 1.15),
    "digits_per_cpu_s_vs_baseline": (HIGHER, 0.85),
    "gpt_per_cpu_s_vs_baseline": (HIGHER, 0.85),
    "plain_vs_gloo": (LOWER, 1.3),
    "tls_vs_hivemind": (LOWER, 0.3),
    "bytes_vs_theory": (LOWER, 1.001),
    "shaped_0ms_vs_theory": (HIGHER, 0.8),
    "shaped_60ms_vs_theory": (HIGHER, 0.7),
    "int8_vs_fp32": (LOWER, 0.45),
    "slow_peer_vs_optimum": (LOWER, 1.15),
    "pipe_vs_ring_8mb_cpu": (HIGHER, 4.0),
    "recovery_median_s": (LOWER, 2.0),
    "batches_lost": (LOWER, 0.0),
    "batches_duplicated": (LOWER, 0.0),
    "leftovers": (LOWER, 0.0),
    "elements_apart": (LOWER, 0.0),
    "after_kill_max_vs_limit": (LOWER, 1.0),
    "spareless_median_s": (LOWER, 10.0),
    "other_pipelines_stall_s": (LOWER, 30.0),
    "h50_vs_dp": (LOWER, 1.09),
    "warm_h50_vs_dp": (LOWER, 1.015),
    "fp32_minus_reference": (LOWER, 0.003),
    "int8_minus_fp32": (LOWER, 0.01),
    "int4_minus_fp32": (LOWER, 0.01),
    "drop25_minus_fp32": (LOWER, 0.03),
    "rejoin_minus_fp32": (LOWER, 0.03),
    "by_samples_vs_uniform": (LOWER, 1.0),
    "rounds_apart": (LOWER, 0.0),
    "digits_qat2_over_ptq2_points": (HIGHER, 5.0),
    "digits_qat4_over_fp32_points": (HIGHER, -1.0),
    "digits_qat8_over_fp32_points": (HIGHER, -1.0),
    "gpt_bytes_qat2_over_ptq2_nats": (HIGHER, 0.1),
    "gpt_bytes_qat4_over_fp32_points": (HIGHER, -1.0),
    "gpt_bytes_qat8_over_fp32_points": (HIGHER, -1.0),
}
"""What the project wants of a ratio: which way is better, and the bound. Others are only shown."""


@dataclass(slots=True)
class Report:
    """The rows and ratios of one bench; rows of one bench may have different columns.

    `totals` are numbers about the whole bench, at the top level of the JSON object.
    """

    name: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    totals: dict[str, float | None] = field(default_factory=dict)

    def row(self, what: str, who: str, **numbers: float) -> None:
        """Add a measurement: what was measured, of whom, and the numbers with their units."""
        self.rows.append({"what": what, "who": who} | {k: _short(v) for k, v in numbers.items()})

    def ratio(self, name: str, value: float) -> None:
        """Add a ratio, or a number that is a target by itself."""
        self.ratios[name] = _short(value)

    def total(self, name: str, value: float | None) -> None:
        """Add a number about the whole bench; None if there was nothing to measure."""
        self.totals[name] = None if value is None else _short(value)

    def as_json(self) -> str:
        """Return the one JSON object."""
        head: dict[str, Any] = {"schema": SCHEMA, "name": self.name, **self.totals}
        return json.dumps({**head, "rows": self.rows, "ratios": self.ratios})

    def as_table(self) -> str:
        """Return the rows, then the ratios with their targets, as text."""
        parts = [f"bench {self.name}"]
        for columns, rows in _by_columns(self.rows):
            parts.append(table(columns, [[str(row[c]) for c in columns] for row in rows]))
        known = {name: value for name, value in self.totals.items() if value is not None}
        numbers = {**known, **self.ratios}
        lines = [[name, f"{value:g}", verdict(name, value)] for name, value in numbers.items()]
        parts.append(table(["number" if known else "ratio", "value", "target"], lines))
        return "\n\n".join(parts)


def verdict(name: str, value: float) -> str:
    """Return a ratio's target and whether it is met, or nothing if it has none."""
    if name not in TARGETS:
        return ""
    better, bound = TARGETS[name]
    is_met = value >= bound if better == HIGHER else value <= bound
    sign = ">=" if better == HIGHER else "<="
    return f"{sign} {bound:g} {'met' if is_met else 'MISSED'}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return text in columns; numbers are aligned right."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(_line(line, widths) for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.ljust(width) if not _is_number(cell) else cell.rjust(width)
        for cell, width in zip(cells, widths, strict=True)
    ]
    return "  ".join(padded).rstrip()


def _is_number(cell: str) -> bool:
    return cell.replace(".", "", 1).replace("-", "", 1).isdigit()


def _by_columns(rows: list[dict[str, Any]]) -> list[tuple[list[str], list[dict[str, Any]]]]:
    """Group rows with the same columns, in the order in which they first appear."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row), []).append(row)
    return [(list(columns), group) for columns, group in groups.items()]


def _short(value: float) -> float:
    """Round to four significant digits: more would be noise."""
    return float(f"{value:.4g}")
