"""Parquet files as sources: whole and streamed, for every kind of column."""

import io
import struct
import wave
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from distqatd.base.errors import ConfigError
from distqatd.config.sections import DataConfig
from distqatd.data.batches import open_dataset
from distqatd.data.tables import open_rows

pyarrow = pytest.importorskip("pyarrow")

EITHER = pytest.mark.parametrize("streaming", [False, True], ids=["table", "stream"])


def saved(folder: Path, columns: dict[str, list[Any]]) -> Path:
    from pyarrow import parquet

    path = folder / "rows.parquet"
    parquet.write_table(pyarrow.table(columns), path, row_group_size=7)
    return path


def config(path: Path, task_type: str, **changes: object) -> DataConfig:
    values = {"dataset_name": str(path), "task_type": task_type, "img_size": 2, **changes}
    return DataConfig.model_validate(values)


def picture(shade: int) -> dict[str, Any]:
    content = io.BytesIO()
    Image.new("L", (2, 2), shade).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": None}


def recording(level: int) -> dict[str, Any]:
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(struct.pack("<4h", *[level] * 4))
    return {"bytes": content.getvalue(), "path": None}


@EITHER
def test_images_with_labels(tmp_path: Path, streaming: bool) -> None:
    path = saved(tmp_path, {"image": [picture(n) for n in range(20)], "label": [0, 1] * 10})
    source = open_rows(config(path, "cv", streaming=streaming, classes=("no", "yes")))
    assert source.num_samples == 20
    (pixels,), (labels,) = source.read(torch.tensor([3, 16]))
    assert pixels[:, 0, 0, 0].tolist() == [3, 16]
    assert labels.tolist() == [1, 0]


@EITHER
def test_texts(tmp_path: Path, streaming: bool) -> None:
    path = saved(tmp_path, {"text": [f"line {n:03}" for n in range(40)]})
    settings = config(path, "llm", seq_len=8, streaming=streaming, num_samples=39)
    (tokens,), _ = open_rows(settings).read(torch.tensor([0, 1]))
    assert bytes(tokens.flatten().tolist()) == b"line 000\nline 00"


@EITHER
def test_recordings_with_labels(tmp_path: Path, streaming: bool) -> None:
    rows = {"audio": [recording(1 << 14), recording(0)] * 10, "label": ["on", "off"] * 10}
    path = saved(tmp_path, rows)
    keys = {"sampling_rate": 8000, "audio_samples": 5, "classes": ("off", "on")}
    settings = config(path, "speech", streaming=streaming, num_samples=20, **keys)
    (audio, lengths), (labels,) = open_rows(settings).read(torch.tensor([0, 13]))
    assert audio.tolist() == [[0.5] * 4 + [0.0], [0.0] * 5]
    assert (lengths.tolist(), labels.tolist()) == ([4, 4], [1, 0])


def test_a_stream_of_a_file_has_the_batches_of_a_fresh_start_after_a_resume(
    tmp_path: Path,
) -> None:
    rows = {"pixels": [[n] for n in range(3000)], "label": [n % 3 for n in range(3000)]}
    keys = {"img_size": 1, "streaming": True, "num_samples": 3000, "shuffle_buffer": 200}
    settings = config(saved(tmp_path, rows), "cv", classes=("a", "b", "c"), **keys)
    whole, resumed = (open_dataset(settings, seed=1, batch_size=16) for _ in range(2))
    batches = {number: whole.batch(number).inputs[0] for number in range(130)}
    for number in (129, 64, 65):
        assert torch.equal(resumed.batch(number).inputs[0], batches[number])


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 not at all")
    with pytest.raises(ConfigError, match=r"rows\.parquet"):
        open_rows(config(path, "cv"))
