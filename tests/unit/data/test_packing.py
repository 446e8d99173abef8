"""Tokenizers, packed and padded sequences, and their exact resume in streams."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distqatd.base.errors import ConfigError
from distqatd.config.sections import DataConfig
from distqatd.data.batches import Dataset, open_dataset
from distqatd.data.source import IGNORED
from distqatd.data.tables import open_rows
from distqatd.data.tokens import open_tokenizer

WORDS = ["<|endoftext|>", "a", "b", "c", "d"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tokenizer of single words and a table of texts."""
    tokenizers = pytest.importorskip("tokenizers")
    path = tmp_path_factory.mktemp("texts")
    model = tokenizers.models.WordLevel({word: n for n, word in enumerate(WORDS)}, "<|endoftext|>")
    reader = tokenizers.Tokenizer(model)
    reader.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    reader.save(str(path / "tokenizer.json"))
    texts = ["a b c", "d", "a a a a a", "b"]
    (path / "texts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    long = ("x" * (1 + n * 7 % 23) for n in range(900))
    (path / "long.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in long))
    return path


def config(path: Path, **changes: object) -> DataConfig:
    values = {"dataset_name": str(path), "task_type": "llm", "seq_len": 4, **changes}
    return DataConfig.model_validate(values)


def test_texts_follow_one_another_with_the_end_between(folder: Path) -> None:
    settings = config(folder / "texts.jsonl", tokenizer=str(folder / "tokenizer.json"))
    source = open_rows(settings)
    (inputs,), (targets,) = source.read(torch.arange(source.num_samples))
    assert (source.num_classes, source.num_samples) == (5, 3)
    assert inputs.flatten().tolist() == [1, 2, 3, 0, 4, 0, 1, 1, 1, 1, 1, 0]
    assert targets.flatten().tolist() == [2, 3, 0, 4, 0, 1, 1, 1, 1, 1, 0, 2]
    assert (inputs.dtype, targets.dtype) == (torch.int64, torch.int64)


@pytest.mark.parametrize("streaming", [False, True])
def test_without_packing_each_text_is_cut_or_padded(folder: Path, streaming: bool) -> None:
    settings = config(
        folder / "texts.jsonl",
        tokenizer=str(folder / "tokenizer.json"),
        packing=False,
        streaming=streaming,
        num_samples=4,
    )
    (inputs,), (targets,) = open_rows(settings).read(torch.arange(4))
    assert inputs.tolist() == [[1, 2, 3, 0], [4, 0, 0, 0], [1, 1, 1, 1], [2, 0, 0, 0]]
    rest = [IGNORED] * 3
    assert targets.tolist() == [[2, 3, 0, IGNORED], [0, *rest], [1, 1, 1, 1], [0, *rest]]


def test_bytes_are_put_apart_by_line_breaks(folder: Path) -> None:
    source = open_rows(config(folder / "texts.jsonl"))
    (inputs,), _ = source.read(torch.arange(source.num_samples))
    assert bytes(inputs.flatten().tolist()) == b"a b c\nd\na a a a a\nb\n"[: inputs.numel()]
    assert source.num_classes == 256


def test_a_plain_text_file_takes_a_tokenizer_too(folder: Path) -> None:
    path = folder / "plain.txt"
    path.write_text("a b\nc d a b")
    settings = config(path, tokenizer=str(folder / "tokenizer.json"))
    (inputs,), (targets,) = open_rows(settings).read(torch.tensor([0]))
    assert (inputs.tolist(), targets.tolist()) == ([[1, 2, 3, 4]], [[2, 3, 4, 1]])
    lines = open_rows(settings.model_copy(update={"packing": False}))
    assert lines.num_samples == 2


def test_a_text_folder_is_its_files_in_order_of_name(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("5678")
    (tmp_path / "a.txt").write_text("01234")
    (inputs,), _ = open_rows(config(tmp_path)).read(torch.tensor([0, 1]))
    assert bytes(inputs.flatten().tolist()) == b"01234567"


def test_a_packed_stream_is_the_packed_table(folder: Path) -> None:
    table = open_rows(config(folder / "long.jsonl"))
    count = table.num_samples
    settings = config(folder / "long.jsonl", streaming=True, num_samples=count)
    stream = open_rows(settings)
    everything = torch.arange(count)
    assert count > 2000
    assert torch.equal(stream.read(everything)[0][0], table.read(everything)[0][0])


def stream_of(folder: Path) -> Dataset:
    settings = config(folder / "long.jsonl", streaming=True, num_samples=2500, shuffle_buffer=300)
    return open_dataset(settings, seed=1, batch_size=10)


@cache
def uninterrupted(folder: Path) -> torch.Tensor:
    dataset = stream_of(folder)
    batches = range(dataset.batches_per_epoch)
    return torch.stack([dataset.batch(number).inputs[0] for number in batches])


@settings(max_examples=8, deadline=None)
@given(stops=st.lists(st.integers(0, 199), min_size=1, max_size=3))
def test_a_packed_stream_goes_on_anywhere(folder: Path, stops: list[int]) -> None:
    resumed = stream_of(folder)
    for stop in stops:
        assert torch.equal(resumed.batch(stop).inputs[0], uninterrupted(folder)[stop])


def test_a_tokenizer_that_cannot_be_used_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file"):
        open_tokenizer(config(tmp_path, tokenizer=str(tmp_path / "none.json")))
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"bad\.json"):
        open_tokenizer(config(tmp_path, tokenizer=str(tmp_path / "bad.json")))


def test_a_stream_of_texts_must_say_how_many_sequences_make_an_epoch(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.num_samples"):
        open_rows(config(folder / "texts.jsonl", streaming=True))
