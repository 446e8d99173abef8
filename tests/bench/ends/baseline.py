"""The unsplit model in one process, as `distqatd.roles.baseline` trains it, on demand."""

import argparse
import time
from typing import Any

import torch

from distqatd.config.layers import Override
from distqatd.config.load import load
from distqatd.data.batches import open_dataset
from distqatd.roles.baseline import train, whole_model
from tests.bench.children import say, serve


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("--config")
    parser.add_argument("--set")
    given = parser.parse_args()
    key, _, value = given.set.partition("=")
    config = load((given.config,), env={}, overrides=[Override(key, value, "bench")]).config
    dataset = open_dataset(config.data, config.seed, config.diloco.batch_size)
    model = whole_model(config, torch.device("cpu"))
    steps = train(config, model, dataset)

    def run(seconds: float = 0.0, at_least: int = 0) -> dict[str, Any]:
        """Train for some time; return steps, and CPU and wall seconds they took."""
        cpu, began = time.process_time(), time.perf_counter()
        num_steps = 0
        while num_steps < at_least or time.perf_counter() - began < seconds:
            next(steps)
            num_steps += 1
        return {
            "steps": num_steps,
            "cpu_s": time.process_time() - cpu,
            "wall_s": time.perf_counter() - began,
        }

    say(parameters=sum(parameter.numel() for parameter in model.parameters()))
    serve({"run": run})


if __name__ == "__main__":
    main()
