"""From a name in the configuration to rows, and from rows to a source of samples."""

from pathlib import Path

from distqatd.base.errors import ConfigError
from distqatd.config.sections import DataConfig
from distqatd.data import columns as c
from distqatd.data.audio import AudioDecoder
from distqatd.data.hub import HubStream, open_hub_rows, open_stream
from distqatd.data.images import ImageDecoder
from distqatd.data.local import (
    TABLE_SUFFIXES,
    find_path,
    holds_tables,
    open_image_folder,
    open_table,
    open_wav_folder,
)
from distqatd.data.packing import PackedDecoder, PackedStream, TextDecoder, TokenWindows, pack
from distqatd.data.rows import Decoder, Rows, RowSource
from distqatd.data.source import Source
from distqatd.data.streams import Stream, StreamRows
from distqatd.data.text import TEXT_TASKS, open_text_file
from distqatd.data.tokens import open_tokenizer


def open_rows(config: DataConfig) -> Source:
    """Open the file, folder or Hugging Face data set that the section names.

    Raises:
        ConfigError: it is not there, or does not fit the section.
    """
    path = find_path(config.dataset_name)
    if config.task_type in TEXT_TASKS:
        return _open_texts(config, path)
    if config.streaming:
        stream = open_stream(config, path)
        rows: Rows = _counted(config, stream, stream.num_rows)
    else:
        rows = _open_table(config, path)
    return RowSource(rows, _decoder(config, rows))


def _open_table(config: DataConfig, path: Path | None) -> Rows:
    if path is None or holds_tables(path):
        return open_hub_rows(config, path)
    if path.is_dir():
        is_speech = config.task_type == "speech"
        return open_wav_folder(path) if is_speech else open_image_folder(path)
    if path.suffix not in TABLE_SUFFIXES:
        raise ConfigError(
            f"data.dataset_name {str(path)!r}: for {config.task_type}, use a folder, or a file "
            f"with one of {', '.join(sorted(TABLE_SUFFIXES))}"
        )
    return open_table(path)


def _decoder(config: DataConfig, rows: Rows) -> Decoder:
    if config.task_type in {"cv", "image_gen"}:
        column = c.input_column(config, rows.kinds, c.PIXELS)
        if config.task_type == "image_gen":
            target, labels = None, c.Labels(())
        else:
            target = c.target_column(config, rows.kinds, c.CLASSES)
            labels = c.find_labels(config, rows, target)
        return ImageDecoder(column, target, labels, config.num_channels, config.img_size)
    if config.task_type == "speech":
        column = c.input_column(config, rows.kinds, c.SOUNDS)
        target = c.target_column(config, rows.kinds, c.TEXTS if config.alphabet else c.CLASSES)
        meaning = config.alphabet or c.find_labels(config, rows, target)
        return AudioDecoder(column, target, meaning, config.sampling_rate, config.audio_samples)
    raise ConfigError(
        f"data.task_type {config.task_type!r} cannot be read from {config.dataset_name!r}; there "
        "are karate for node_pred and cartpole for rl"
    )


def _open_texts(config: DataConfig, path: Path | None) -> Source:
    if config.streaming:
        return _stream_texts(config, open_stream(config, path))
    if path is not None and path.suffix not in TABLE_SUFFIXES and not holds_tables(path):
        return open_text_file(config)
    rows = _open_table(config, path)
    column = c.input_column(config, rows.kinds, c.TEXTS)
    tokenizer = open_tokenizer(config)
    if not config.packing:
        return RowSource(rows, TextDecoder(column, tokenizer, config.seq_len))
    texts = map(str, rows.values(column) or ())
    tokens = pack(texts, tokenizer, config.max_bytes)
    return TokenWindows(tokens, config.seq_len, tokenizer.num_tokens)


def _stream_texts(config: DataConfig, stream: HubStream) -> Source:
    column = c.input_column(config, stream.kinds, c.TEXTS)
    tokenizer = open_tokenizer(config)
    if not config.packing:
        rows = _counted(config, stream, stream.num_rows)
        return RowSource(rows, TextDecoder(column, tokenizer, config.seq_len))
    packed = PackedStream(stream, column, tokenizer, config.seq_len)
    return RowSource(_counted(config, packed, None), PackedDecoder(tokenizer.num_tokens))


def _counted(config: DataConfig, stream: Stream, num_rows: int | None) -> StreamRows:
    """Return as many samples of a stream as an epoch shall have.

    Raises:
        ConfigError: neither the section nor the stream says how many.
    """
    count = config.num_samples or num_rows
    if count is None:
        raise ConfigError(
            f"data.num_samples: the stream {config.dataset_name} does not tell how many samples "
            "it has; say how many make an epoch"
        )
    return StreamRows(stream, count, config.shuffle_buffer)
