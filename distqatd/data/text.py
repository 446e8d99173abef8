"""Text as bytes: Python's own sources, which every machine has, or a local file.

A token is a byte, so the vocabulary has 256 entries and nothing has to be trained or downloaded.
"""

import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distqatd.base.errors import ConfigError
from distqatd.config.sections import DataConfig

TEXT_TASKS = ("llm", "nlp")
"""Tasks that predict the next token."""


class ByteWindows:
    """A `Source` of windows of a byte string, each paired with itself shifted by one byte.

    Windows start `seq_len` bytes apart, so every byte but the first is a target at most once.
    Inputs and targets are int64 (B, T) with T = seq_len.
    """

    num_classes = 256

    def __init__(self, text: bytes, seq_len: int) -> None:
        self._bytes = torch.from_numpy(np.frombuffer(text, dtype=np.uint8).copy())
        self._seq_len = seq_len
        self._offsets = torch.arange(seq_len + 1)

    @property
    def num_samples(self) -> int:
        """Return how many whole windows there are."""
        return max(0, (len(self._bytes) - 1) // self._seq_len)

    def read(self, numbers: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return tokens and next tokens of the windows `numbers`."""
        starts = numbers * self._seq_len
        windows = self._bytes[starts.unsqueeze(1) + self._offsets].to(torch.int64)
        return (windows[:, :-1].contiguous(),), (windows[:, 1:].contiguous(),)


def open_python_sources(config: DataConfig) -> ByteWindows:
    """Read the standard library's top-level modules, in order of name, up to `max_bytes`.

    The same Python installation gives the same bytes; another version gives others.
    """
    _check_task(config)
    folder = Path(sysconfig.get_path("stdlib"))
    return ByteWindows(read_files(sorted(folder.glob("*.py")), config.max_bytes), config.seq_len)


def open_text_file(config: DataConfig) -> ByteWindows:
    """Read the first `max_bytes` of the file that `dataset_name` is the path of.

    Raises:
        ConfigError: it cannot be read.
    """
    _check_task(config)
    path = Path(config.dataset_name).expanduser()
    try:
        text = read_files([path], config.max_bytes)
    except OSError as error:
        raise ConfigError(f"data.dataset_name {config.dataset_name!r}: {error.strerror}") from error
    return ByteWindows(text, config.seq_len)


def read_files(paths: Sequence[Path], max_bytes: int) -> bytes:
    """Concatenate files in the given order; stop, and open no further one, at `max_bytes`."""
    return b"".join(_pieces(paths, max_bytes))


def _pieces(paths: Sequence[Path], max_bytes: int) -> Iterator[bytes]:
    left = max_bytes
    for path in paths:
        if left <= 0:
            return
        with path.open("rb") as file:
            piece = file.read(left)
        left -= len(piece)
        yield piece


def _check_task(config: DataConfig) -> None:
    if config.task_type not in TEXT_TASKS:
        raise ConfigError(
            f"data.task_type is {config.task_type!r} but {config.dataset_name!r} is text; "
            f"use one of {', '.join(TEXT_TASKS)}"
        )
