"""What DiLoCo costs in quality: real experts and averagers, beside data-parallel training.

Four replicas train a small character GPT on one machine; the same run in plain torch, and one
model on the batches of all four at once, are what they are compared with. The network is in
memory and time is virtual, so only the mathematics is measured, and the bytes.
"""

import logging
import time
from pathlib import Path
from typing import Any

import torch

from tests.bench import diloco_reference as reference
from tests.bench.charlm import CharGpt, Text, open_text
from tests.bench.diloco_reference import Size
from tests.bench.diloco_swarm import Case, Outcome, train
from tests.bench.report import Report

QUICK = Size(steps=24, inner_steps=4, windows=64)

DROPPED = 0.25
SLOW = (1.0, 1.0, 0.2, 0.2)


def cases(size: Size) -> dict[str, Case]:
    """Return the runs to make, by name; fp32 comes first."""
    pre = size.steps // 4
    half, outer_steps = size.outer_steps // 2, size.outer_steps
    warm_rounds = pre + (size.steps - pre) // size.inner_steps
    # As in the reference: each contribution is lost on its own, drawn round by round.
    generator = torch.Generator().manual_seed(size.seed + 77)
    is_lost = torch.rand((outer_steps, size.replicas), generator=generator) < DROPPED
    warm_start = {"length": pre, "round_steps": 1, "lr": size.replicas**0.5}
    return {
        "fp32": Case(),
        "warm start": Case({"outer_steps": warm_rounds, "warm_start": warm_start}),
        "int8": Case({"codec": "int8"}),
        "int4": Case({"codec": "int4"}),
        "two fragments": Case(streaming(size)),
        "25 % lost": Case(lost=lambda index, step: bool(is_lost[step, index])),
        "killed and back": Case(away=(size.replicas - 1, half, min(half + 3, outer_steps - 1))),
        "two at a fifth, uniform": Case(speeds=SLOW, is_weighted=False),
        "two at a fifth, by samples": Case(speeds=SLOW),
    }


def streaming(size: Size) -> dict[str, object]:
    """Return two fragments in turns, each as often as the whole otherwise, beside inner steps."""
    return {
        "inner_steps": size.inner_steps // 2,
        "outer_steps": 2 * size.outer_steps,
        "fragments": 2,
        "overlap_steps": max(1, size.inner_steps // 10),
    }


def run(
    report: Report,
    *,
    quick: bool,
    peer_python: str | None,
    data: Path | None = None,
    only: str | None = None,
) -> None:
    """Train everything, or the runs whose name holds `only`, and fill the report."""
    del peer_python
    torch.set_num_threads(1)
    logging.getLogger("distqatd").addHandler(logging.NullHandler())  # aborts are counted, not told
    size, text = (QUICK if quick else Size()), open_text(data)
    plain = {
        "data-parallel": _timed(report, text, "data-parallel", reference.data_parallel, size),
        "diloco": _timed(report, text, "fp32", reference.diloco, size),
    }
    done: dict[str, Outcome] = {}
    for name, case in cases(size).items():
        if only is None or only in name or name == "fp32":
            done[name] = _train(report, text, size, name, case)
    _ratios(report, plain, done)
    report.ratio("bytes_vs_dp", done["fp32"].bytes_sent / _data_parallel_bytes(text, size))
    report.ratio("rounds_apart", sum(outcome.num_apart for outcome in done.values()))


def _timed(report: Report, text: Text, what: str, train: Any, size: Size) -> float:
    began = time.perf_counter()
    loss: float = train(text, size)
    report.row(f"{what}, {text.name}", "torch", loss=loss, seconds=time.perf_counter() - began)
    return loss


def _train(report: Report, text: Text, size: Size, name: str, case: Case) -> Outcome:
    began = time.perf_counter()
    found = train(text, size, case)
    report.row(
        f"{name}, {text.name}",
        "distqat",
        loss=found.loss,
        seconds=time.perf_counter() - began,
        rounds=found.rounds,
        aborted=found.num_aborted,
        apart=found.num_apart,
        mb_sent_per_peer=found.bytes_sent / 1e6,
        mb_most_a_round=found.most_bytes / 1e6,
    )
    return found


def _ratios(report: Report, plain: dict[str, float], done: dict[str, Outcome]) -> None:
    parallel, fp32 = plain["data-parallel"], done["fp32"].loss
    report.ratio("h50_vs_dp", fp32 / parallel)
    report.ratio("fp32_minus_reference", abs(fp32 - plain["diloco"]))
    names = {
        "int8": "int8_minus_fp32",
        "int4": "int4_minus_fp32",
        "two fragments": "streaming_minus_fp32",
        "25 % lost": "drop25_minus_fp32",
        "killed and back": "rejoin_minus_fp32",
    }
    for case, ratio in names.items():
        if case in done:
            report.ratio(ratio, done[case].loss - fp32)
    if "warm start" in done:
        report.ratio("warm_h50_vs_dp", done["warm start"].loss / parallel)
    if "two at a fifth, by samples" in done and "two at a fifth, uniform" in done:
        by_samples = done["two at a fifth, by samples"].loss
        report.ratio("by_samples_vs_uniform", by_samples / done["two at a fifth, uniform"].loss)


def _data_parallel_bytes(text: Text, size: Size) -> float:
    """Return what a peer sends when gradients are averaged in every step, fp32, in a butterfly."""
    num_params = sum(param.numel() for param in CharGpt(text.num_chars).parameters())
    share = 2 * (size.replicas - 1) / size.replicas
    return 4 * num_params * share * size.steps
