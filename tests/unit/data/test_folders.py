"""Folders of the user's: a copy of a data set of the Hub, and recordings that a model learns."""

import math
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from distqatd.compute.expert import Expert
from distqatd.compute.stages import build_trained_stage
from distqatd.config.layers import Override
from distqatd.config.load import load
from distqatd.config.sections import DataConfig
from distqatd.data.batches import open_dataset
from distqatd.data.tables import open_rows
from distqatd.data.tasks import task

RATE = 16000
WORDS = {"hi": (2200, 2600), "lo": (300, 500), "up": (400, 2400)}
"""Tones at the beginning and the end of a word, Hz."""


def record(path: Path, hertz: tuple[float, float], rng: np.random.Generator) -> None:
    """Write a quarter of a second of a gliding tone under noise, in two channels."""
    length = int(rng.uniform(0.2, 0.25) * RATE)
    pitch = np.linspace(*hertz, length) * rng.uniform(0.95, 1.05)
    sound = 0.5 * np.sin(np.cumsum(pitch) * math.tau / RATE) + rng.normal(0, 0.05, length)
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((2, 2, RATE, 0, "NONE", ""))
        both = np.repeat((sound * 20000).astype("<i2"), 2)
        file.writeframes(both.tobytes())


@pytest.fixture
def words(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for word, hertz in WORDS.items():
        for number in range(40):
            record(tmp_path / "words" / word / f"{number:02}.wav", hertz, rng)
    return tmp_path / "words"


def test_a_pipeline_learns_the_words_of_a_folder_of_recordings(words: Path) -> None:
    named = Override("data.dataset_name", str(words), "the test")
    config = load(("spoken",), env={}, overrides=[named]).config
    dataset = open_dataset(config.data, config.seed, 16)
    assert (dataset.num_samples, dataset.num_validation_samples) == (96, 24)
    experts = [
        Expert(
            f"{stage.stage}.0.0.0",
            build_trained_stage(config, stage)[0],
            config.diloco.inner_optim,
            config.diloco.outer_optim,
            task=task("speech"),
            is_first=stage.stage == "front",
        )
        for stage in config.model_pipeline.pipeline
    ]
    front, back = experts
    for number in range(40):
        batch = dataset.batch(number)
        hidden = front.forward(0, batch.inputs, number)
        _, grads = back.loss_backward(0, hidden, batch.targets, 1.0, number)
        front.backward(0, grads)
        for expert in experts:
            expert.apply(batch.num_samples)
    sums: dict[str, float] = {}
    for batch in dataset.validation_batches():
        values = batch.inputs
        for expert in experts:
            values = expert.evaluate(values, anchor=False)
        for name, value in task("speech").metrics(values, batch.targets).items():
            sums[name] = sums.get(name, 0.0) + value
    assert sums["correct"] / sums["count"] > 0.6


def copy_of_the_hub(root: Path) -> Path:
    """Write a data set as the Hub has it: shards of two splits, features beside them."""
    datasets = pytest.importorskip("datasets")
    folder = root / "some" / "words"
    (folder / "data").mkdir(parents=True)
    names = datasets.ClassLabel(names=["odd", "even"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    for split, first, count in (("train", 0, 30), ("train", 30, 30), ("test", 100, 20)):
        rows = {"text": [f"number {first + n}" for n in range(count)]}
        rows["label"] = [(first + n + 1) % 2 for n in range(count)]
        shard = datasets.Dataset.from_dict(rows, features=features)
        shard.to_parquet(folder / "data" / f"{split}-{first:05}-of-00002.parquet")
    return folder


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_named_as_a_data_set_of_the_hub_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    copy_of_the_hub(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def config(split: str, count: int) -> DataConfig:
        return DataConfig(
            dataset_name="some/words",
            dataset_split=split,
            task_type="llm",
            packing=False,
            seq_len=12,
            streaming=streaming,
            num_samples=count,
        )

    training, test = open_rows(config("train", 60)), open_rows(config("test", 20))
    assert (training.num_samples, test.num_samples) == (60, 20)
    (tokens,), _ = training.read(torch.tensor([0, 30, 59]))
    for row, number in zip(tokens, (0, 30, 59), strict=True):
        assert bytes(row.tolist()).startswith(f"number {number}".encode())
