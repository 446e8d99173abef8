"""Training for few bits beside rounding a trained model, on digits and on a byte GPT.

Each model is trained unsplit and alone, as `distqatd.roles.baseline` does it, in full precision and
quantised, for the same steps from the same seed. Rounding afterwards is the best of three ways:
levels up to the largest weight, levels of least error for a normal distribution, and steps
searched for the least error of each channel. A step belongs to an output channel, at 4 bits to 32
weights of it, and the GPT's embeddings and output layer have 8; at 2 bits activations stay as they
are, at 4 and 8 bits they have 8.

A run takes a minute or more. With `--keep FILE` each one that has ended is noted there, and not
made again by whoever names the file later: the bench can be stopped and gone on with, or run in
parts.
"""

import copy
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.nn.utils import parametrize

from distqatd.compute.stages import build_whole_model, named_modules, quantise_whole
from distqatd.config.layers import Override
from distqatd.config.load import load
from distqatd.config.run import run_digest
from distqatd.config.sections import Config, QuantConfig
from distqatd.data.batches import open_dataset
from distqatd.models.units import Stage
from distqatd.quant.grouping import Grouping
from distqatd.quant.levels import fake_quantise, signed_range
from distqatd.quant.prepare import output_axis
from distqatd.quant.weights import best_step
from distqatd.roles import baseline
from tests.bench.report import Report

TASKS: dict[str, dict[str, object]] = {
    "digits": {"diloco.outer_steps": 8, "diloco.inner_optim.lr_schedule": "cosine"},
    "gpt_bytes": {
        "diloco.outer_steps": 40,
        "diloco.inner_optim.lr_schedule": "wsd",
        "diloco.inner_optim.decay_steps": 400,
    },
}
"""Configurations, and what is different here. A rate that ends low takes noise from accuracies: one
point is four digits. A GPT of 200 steps has little to lose at 2 bits yet; after 500 steps at a
constant rate, accuracies of one seed in full precision are two points apart if its first weights
are changed by a thousandth."""

ENDS = [
    {"type": "Embedding", "weights": {"bits": 8}},
    {"name": "lm_head", "weights": {"bits": 8}},
]
"""The first and the last layer of the GPT, as Esser et al. have them at few bits."""

SCHEMES: dict[int, dict[str, object]] = {
    2: {"weights": {"bits": 2}},
    4: {
        "weights": {"bits": 4, "granularity": "group"},
        "activations": {"bits": 8},
        "overrides": ENDS,
    },
    8: {"weights": {"bits": 8}, "activations": {"bits": 8}},
}
"""How a model is trained for so many bits."""

Found = dict[str, float]


class Kept:
    """Runs that have ended, by what was trained, in a file of JSON lines if there is one.

    What was trained is the run-wide configuration; whoever changes the code names another file.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        lines = file.read_text().splitlines() if file is not None and file.exists() else []
        found = map(json.loads, lines)
        self._runs: dict[str, dict[str, Found]] = {one["run"]: one["found"] for one in found}

    def get(self, config: Config, make: Callable[[], dict[str, Found]]) -> dict[str, Found]:
        """Return what the run of `config` gave, by name; `make` it if it is not known."""
        run = run_digest(config)
        if run not in self._runs:
            self._runs[run] = make()
            if self._file is not None:
                with self._file.open("a") as file:
                    file.write(json.dumps({"run": run, "found": self._runs[run]}) + "\n")
        return self._runs[run]


def run(report: Report, *, quick: bool, peer_python: str | None, **options: str) -> None:
    """Run the bench; options: `seeds` and `bits`, such as 0,1,2, `task`, and the file `keep`."""
    del peer_python
    torch.set_num_threads(1)
    kept = Kept(Path(options["keep"]) if "keep" in options else None)
    seeds = [0] if quick else [int(seed) for seed in options.get("seeds", "0,1,2").split(",")]
    widths = [int(bits) for bits in options.get("bits", "2,4,8").split(",")]
    for task in [options["task"]] if "task" in options else TASKS:
        more = {"diloco.outer_steps": 1} if quick else {}
        configs = [config_of(task, seed, **more) for seed in seeds]
        results = [compare(report, config, widths, kept) for config in configs]
        for name in results[0]:
            report.ratio(f"{task}_{name}", min(result[name] for result in results))


def config_of(task: str, seed: int, **more: object) -> Config:
    """Return what is trained; `more` has values by dotted path."""
    values = {"seed": seed, **TASKS[task], **more}
    return load([task], overrides=[Override(k, v, "bench") for k, v in values.items()]).config


def compare(
    report: Report, config: Config, widths: Sequence[int], kept: Kept | None = None
) -> dict[str, float]:
    """Return what the bars are about, one seed; the bench's ratio is the worst seed's."""
    kept = kept or Kept()
    what = f"{config.experiment_prefix}, seed {config.seed}"
    plain = kept.get(config, lambda: _plain(config))
    exact, rounded = plain["trained"], plain["rounded"]
    report.row(what, "fp32", **exact)
    ratios = {}
    for bits in widths:
        quant = QuantConfig.model_validate(SCHEMES[bits])
        quantised = config.model_copy(update={"quant": quant})
        trained = kept.get(quantised, lambda c=quantised: {"trained": _train(c)[1]})["trained"]
        report.row(what, f"{bits} bits, trained for", **trained)
        points = 100 * (trained["accuracy"] - exact["accuracy"])
        ratios[f"qat{bits}_over_fp32_points"] = points
        if bits == 2:
            report.row(what, "2 bits, rounded afterwards", **rounded)
            ratios["qat2_over_ptq2_points"] = 100 * (trained["accuracy"] - rounded["accuracy"])
            ratios["qat2_over_ptq2_nats"] = rounded["loss"] - trained["loss"]
    return ratios


def _plain(config: Config) -> dict[str, Found]:
    model, exact = _train(config)
    after = [_evaluate(config, each) for each in _rounded(config, model)]
    best = min(after, key=lambda found: found["loss"])
    best |= {"accuracy": max(found["accuracy"] for found in after)}
    return {"trained": exact, "rounded": best}


def _train(config: Config) -> tuple[Stage, Found]:
    model = build_whole_model(config)
    dataset = open_dataset(config.data, config.seed, config.diloco.batch_size_per_step)
    began = time.process_time()
    for _ in baseline.train(config, model, dataset):
        pass
    took_s = time.process_time() - began
    return model, _evaluate(config, model) | {"train_cpu_s": took_s}


def _evaluate(config: Config, model: Stage) -> Found:
    dataset = open_dataset(config.data, config.seed, config.diloco.batch_size_per_step)
    found = baseline.evaluate(config, model, dataset)
    return {name: value for name, value in found.items() if value is not None}


def _rounded(config: Config, plain: Stage) -> list[Stage]:
    """Return the trained model with weights of 2 bits, rounded in three ways."""
    models = [copy.deepcopy(plain) for _ in range(3)]
    for model, quantizer in zip(models, ("MinMaxQuantizer", "LearnedStepQuantizer"), strict=False):
        quant = QuantConfig.model_validate({"weights": {"bits": 2, "quantizer": quantizer}})
        quantise_whole(model, quant, config.model_pipeline.pipeline)
    _round_by_search(models[2])
    return models


@torch.no_grad()
def _round_by_search(model: Stage) -> None:
    low, high = signed_range(2)
    for _, module in named_modules(model, model.unit_names):
        axis = output_axis(module)
        if axis is None or parametrize.is_parametrized(module):
            continue
        grouping = Grouping(tuple(module.weight.shape), "channel", axis)
        values = grouping.split(module.weight)
        rounded = fake_quantise(values, best_step(values, low, high), low, high)
        module.weight.copy_(grouping.join(rounded))
