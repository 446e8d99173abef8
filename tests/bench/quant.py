"""Training for few bits beside rounding a trained model, on digits and on a byte GPT.

Each model is trained unsplit and alone, as `distqatd.roles.baseline` does it, in full precision and
quantised, for the same steps from the same seed. Rounding afterwards is the best of three ways:
levels up to the largest weight, levels of least error for a normal distribution, and steps
searched for the least error of each channel. A step belongs to an output channel, at 4 bits to 32
weights of it; at 2 bits activations stay as they are, at 4 and 8 bits they have 8.
"""

import copy
import time
from collections.abc import Sequence

import torch
from torch.nn.utils import parametrize

from distqatd.compute.stages import build_whole_model, named_modules, quantise_whole
from distqatd.config.layers import Override
from distqatd.config.load import load
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
    "gpt_bytes": {"diloco.outer_steps": 20},
}
"""Configurations, and what is different here. A rate that ends low takes noise from accuracies: one
point is four digits. A GPT of 200 steps has little to lose at 2 bits yet."""

SCHEMES: dict[int, dict[str, object]] = {
    2: {"weights": {"bits": 2}},
    4: {"weights": {"bits": 4, "granularity": "group"}, "activations": {"bits": 8}},
    8: {"weights": {"bits": 8}, "activations": {"bits": 8}},
}
"""How a model is trained for so many bits."""

Found = dict[str, float]


def run(report: Report, *, quick: bool, peer_python: str | None, **options: str) -> None:
    """Run the bench; options: `seeds` and `bits`, such as 0,1,2, and `task`."""
    del peer_python
    torch.set_num_threads(1)
    seeds = [0] if quick else [int(seed) for seed in options.get("seeds", "0,1,2").split(",")]
    widths = [int(bits) for bits in options.get("bits", "2,4,8").split(",")]
    for task in [options["task"]] if "task" in options else TASKS:
        more = {"diloco.outer_steps": 1} if quick else {}
        results = [compare(report, config_of(task, seed, **more), widths) for seed in seeds]
        for name in results[0]:
            report.ratio(f"{task}_{name}", min(result[name] for result in results))


def config_of(task: str, seed: int, **more: object) -> Config:
    """Return what is trained; `more` has values by dotted path."""
    values = {"seed": seed, **TASKS[task], **more}
    return load([task], overrides=[Override(k, v, "bench") for k, v in values.items()]).config


def compare(report: Report, config: Config, widths: Sequence[int]) -> dict[str, float]:
    """Return what the bars are about, one seed; the bench's ratio is the worst seed's."""
    plain = build_whole_model(config)
    exact = _train(report, config, plain, "fp32")
    trained = {}
    for bits in widths:
        quantised = config.model_copy(update={"quant": QuantConfig.model_validate(SCHEMES[bits])})
        model = build_whole_model(quantised)
        trained[bits] = _train(report, quantised, model, f"{bits} bits, trained for")
    ratios = {
        f"qat{bits}_over_fp32_points": 100 * (found["accuracy"] - exact["accuracy"])
        for bits, found in trained.items()
    }
    return ratios | (_over_rounding(report, config, plain, trained[2]) if 2 in trained else {})


def _over_rounding(
    report: Report, config: Config, plain: Stage, trained: Found
) -> dict[str, float]:
    after = [_evaluate(config, model) for model in _rounded(config, plain)]
    best = min(after, key=lambda found: found["loss"])
    best |= {"accuracy": max(found["accuracy"] for found in after)}
    report.row(_what(config), "2 bits, rounded afterwards", **best)
    return {
        "qat2_over_ptq2_points": 100 * (trained["accuracy"] - best["accuracy"]),
        "qat2_over_ptq2_nats": best["loss"] - trained["loss"],
    }


def _what(config: Config) -> str:
    return f"{config.experiment_prefix}, seed {config.seed}"


def _train(report: Report, config: Config, model: Stage, name: str) -> Found:
    dataset = open_dataset(config.data, config.seed, config.diloco.batch_size_per_step)
    began = time.process_time()
    for _ in baseline.train(config, model, dataset):
        pass
    took_s = time.process_time() - began
    found = _evaluate(config, model)
    report.row(_what(config), name, **found, train_cpu_s=took_s)
    return found


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
