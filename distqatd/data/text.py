"""Plain text: Python's own sources, which every machine has, or a local file or folder."""

import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from distqatd.base.errors import ConfigError
from distqatd.config.sections import DataConfig
from distqatd.data.packing import TextDecoder, TokenWindows
from distqatd.data.rows import ListRows, RowSource
from distqatd.data.source import Source
from distqatd.data.tokens import byte_tokens, open_tokenizer

TEXT_TASKS = ("llm", "nlp")
"""Tasks that predict the next token."""


def open_python_sources(config: DataConfig) -> Source:
    """Read the standard library's top-level modules, in order of name, up to `max_bytes`.

    The same Python installation gives the same text; another version gives another.
    """
    _check_task(config)
    folder = Path(sysconfig.get_path("stdlib"))
    return _source(config, read_files(sorted(folder.glob("*.py")), config.max_bytes))


def open_text_file(config: DataConfig) -> Source:
    """Read the first `max_bytes` of the file, or of the files of the folder, named by the section.

    Files of a folder follow one another in order of name.

    Raises:
        ConfigError: it cannot be read.
    """
    _check_task(config)
    path = Path(config.dataset_name).expanduser()
    paths = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    try:
        text = read_files(paths, config.max_bytes)
    except OSError as error:
        raise ConfigError(f"data.dataset_name {config.dataset_name!r}: {error.strerror}") from error
    return _source(config, text)


def _source(config: DataConfig, text: bytes) -> Source:
    """Cut a text into windows; without packing, each of its lines is a text of its own."""
    if config.packing and config.tokenizer is None:  # bytes need not be UTF-8
        return TokenWindows(byte_tokens(text), config.seq_len, 1 << 8)
    tokenizer = open_tokenizer(config)
    decoded = text.decode("utf-8", errors="replace")
    if config.packing:
        return TokenWindows(tokenizer.encode(decoded), config.seq_len, tokenizer.num_tokens)
    lines = ListRows([{"text": line} for line in decoded.splitlines() if line.strip()])
    return RowSource(lines, TextDecoder("text", tokenizer, config.seq_len))


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
