import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.report import SCHEMA, TARGETS, Report, verdict

ROOT = Path(__file__).parents[3]


def filled():
    report = Report("transport")
    report.row("stream of 1 MiB tensors", "raw", best_mib_per_s=2000.123456)
    report.row("stream of 1 MiB tensors", "plain", best_mib_per_s=1700.0)
    report.row("round trip", "plain", p50_us=61.0)
    report.ratio("plain_1mib_vs_raw", 0.85)
    report.ratio("rtt_1kib_tls_vs_ssl", 2.5)
    return report


def test_the_object_has_the_schema_and_nothing_else():
    whole = json.loads(filled().as_json())
    assert list(whole) == ["schema", "name", "rows", "ratios"]
    assert (whole["schema"], whole["name"]) == (SCHEMA, "transport")
    assert whole["rows"][0] == {
        "what": "stream of 1 MiB tensors",
        "who": "raw",
        "best_mib_per_s": 2000.0,
    }
    assert whole["ratios"] == {"plain_1mib_vs_raw": 0.85, "rtt_1kib_tls_vs_ssl": 2.5}


def test_the_table_groups_rows_by_their_columns_and_judges_ratios():
    table = filled().as_table()
    assert table.count("best_mib_per_s") == 1
    assert "plain_1mib_vs_raw     0.85  >= 0.8 met" in table
    assert table.splitlines()[-1] == "rtt_1kib_tls_vs_ssl    2.5"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("tls_16mib_vs_ssl", 0.74, ">= 0.75 MISSED"),
        ("fwdbwd_vs_local", 1.15, "<= 1.15 met"),
        ("fwdbwd_vs_local", 1.2, "<= 1.15 MISSED"),
        ("n16_get_p50_ms", 99.0, ""),
    ],
)
def test_a_target_says_which_way_is_better(name, value, expected):
    assert verdict(name, value) == expected


@pytest.mark.integration
def test_a_quick_bench_prints_one_object_and_nothing_else():
    command = [sys.executable, "-m", "tests.bench", "transport", "--quick", "--json"]
    done = subprocess.run(
        command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    assert done.returncode == 0
    (line,) = done.stdout.splitlines()
    whole = json.loads(line)
    assert whole["schema"] == SCHEMA
    assert {"what", "who"} <= set(whole["rows"][0])
    assert {"plain_1mib_vs_raw", "rtt_1kib_tls_vs_ssl"} <= set(whole["ratios"])
    assert set(whole["ratios"]) & set(TARGETS)
