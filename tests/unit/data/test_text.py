"""Text as windows of bytes."""

import sysconfig
from pathlib import Path

import pytest
import torch

from distqatd.base.errors import ConfigError
from distqatd.config.sections import DataConfig
from distqatd.data.packing import TokenWindows
from distqatd.data.text import open_python_sources, open_text_file, read_files
from distqatd.data.tokens import byte_tokens


def test_targets_are_inputs_shifted_by_one_byte() -> None:
    (inputs,), (targets,) = TokenWindows(byte_tokens(b"abcdefghij"), 3, 256).read(
        torch.tensor([0, 2])
    )
    assert [bytes(row) for row in inputs.tolist()] == [b"abc", b"ghi"]
    assert [bytes(row) for row in targets.tolist()] == [b"bcd", b"hij"]
    assert (inputs.dtype, targets.dtype) == (torch.int64, torch.int64)


@pytest.mark.parametrize(("length", "windows"), [(0, 0), (1, 0), (3, 0), (4, 1), (6, 1), (7, 2)])
def test_only_whole_windows_count(length: int, windows: int) -> None:
    assert TokenWindows(byte_tokens(bytes(length)), 3, 256).num_samples == windows


def test_no_more_is_opened_than_needed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "b").write_bytes(b"678")
    paths = [tmp_path / "a", tmp_path / "b", tmp_path / "missing"]
    assert read_files(paths, 7) == b"1234567"
    assert read_files(paths[:1], 99) == b"12345"


@pytest.mark.parametrize("task_type", ["llm", "nlp"])
def test_python_sources_are_the_standard_library_in_order_of_name(task_type: str) -> None:
    config = DataConfig.model_validate(
        {
            "dataset_name": "python_sources",
            "task_type": task_type,
            "seq_len": 64,
            "max_bytes": 100_000,
        }
    )
    source = open_python_sources(config)
    first = min(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    (inputs,), _ = source.read(torch.tensor([0]))
    assert bytes(inputs[0].tolist()) == first.read_bytes()[:64]
    assert source.num_samples == (100_000 - 1) // 64


def test_text_needs_a_text_task(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="llm, nlp"):
        open_python_sources(DataConfig(dataset_name="python_sources"))
    with pytest.raises(ConfigError, match="llm, nlp"):
        open_text_file(DataConfig(dataset_name=str(tmp_path)))


def test_a_file_that_cannot_be_read_is_a_config_error(tmp_path: Path) -> None:
    config = DataConfig(dataset_name=str(tmp_path / "none"), task_type="llm")
    with pytest.raises(ConfigError, match="No such file"):
        open_text_file(config)
