"""Hugging Face data sets, whole or streamed, and local tables streamed by the same library.

`datasets` is imported where it is used: it takes half a second and 100 MB.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from distqatd.base.errors import ConfigError
from distqatd.config.sections import DataConfig
from distqatd.data.local import holds_tables
from distqatd.data.rows import AUDIO, IMAGE, LABEL, LIST, NUMBER, OTHER, TEXT, Row, kinds_of
from distqatd.data.streams import Marks

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
_MARK_EVERY = 1024
_BUILDERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet"}
_KINDS = {"Image": IMAGE, "Audio": AUDIO, "ClassLabel": LABEL}


def is_hub_name(name: str) -> bool:
    """Return whether `name` can be that of a data set on the Hugging Face Hub."""
    return _HUB_NAME.fullmatch(name) is not None


class HubRows:
    """A data set that is on this machine, memory-mapped; see `rows.Rows`."""

    kinds: Mapping[str, str]
    names: Mapping[str, tuple[str, ...]]

    def __init__(self, dataset: Any) -> None:
        self._dataset = _undecoded_audio(dataset)
        self.kinds, self.names = _kinds(self._dataset.features)

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self._dataset)

    def take(self, numbers: Sequence[int]) -> list[Row]:
        """Return the rows `numbers`, in that order."""
        return [self._dataset[int(number)] for number in numbers]

    def values(self, column: str) -> Iterable[Any]:
        """Return the column from the first row to the last."""
        values: Iterable[Any] = self._dataset[column]
        return values


class HubStream:
    """A data set that is read while it is used; see `streams.Stream`.

    Attributes:
        num_rows: how many rows the data set says it has, or None.
    """

    kinds: Mapping[str, str]
    names: Mapping[str, tuple[str, ...]]

    def __init__(self, dataset: Any, num_rows: int | None = None) -> None:
        """Take an `IterableDataset` that is not shuffled; `num_rows` if it does not tell itself."""
        self._dataset = _undecoded_audio(dataset)
        self._marks: Marks[dict[str, Any]] = Marks(self._dataset.state_dict())
        features = self._dataset.features
        if features is None:  # a table of JSON does not declare them
            self.kinds = kinds_of(next(self.rows(0), {}))
            self.names = {}
        else:
            self.kinds, self.names = _kinds(features)
        splits = self._dataset.info.splits or {}
        known = splits.get(str(self._dataset.split))
        self.num_rows: int | None = known.num_examples if known is not None else num_rows

    def rows(self, start: int) -> Iterator[Row]:
        """Yield the rows from number `start` on. Ends the iterators returned before."""
        position, state = self._marks.best(start)
        self._dataset.load_state_dict(state)
        for row in self._dataset:
            if position >= start:
                yield row
            position += 1
            if position % _MARK_EVERY == 0:
                self._marks.put(position, self._dataset.state_dict())


def open_hub_rows(config: DataConfig, folder: Path | None = None) -> HubRows:
    """Open a data set of the Hub; it is downloaded once, and kept in the library's cache.

    Args:
        config: names it.
        folder: where it is on this machine, as the Hub has it; None: at the Hub.

    Raises:
        ConfigError: there is no such data set, or it cannot be reached.
    """
    name = config.dataset_name if folder is None else str(folder.resolve())
    return HubRows(_load(config, name, config.dataset_config, streaming=False))


def open_stream(config: DataConfig, path: Path | None) -> HubStream:
    """Open a data set of the Hub, or the table or text file at `path`, as a stream.

    Raises:
        ConfigError: there is no such data set, it cannot be reached, or `path` is a folder of
            other files than tables.
    """
    if path is None or holds_tables(path):
        name = config.dataset_name if path is None else str(path.resolve())
        return HubStream(_load(config, name, config.dataset_config, streaming=True))
    if path.is_dir():
        raise ConfigError(
            f"data.dataset_name {config.dataset_name!r} is a folder, whose files are read one by "
            "one as they are needed; there is nothing to stream\nfix: set data.streaming to false"
        )
    builder = _BUILDERS.get(path.suffix, "text")
    files = {config.dataset_split: str(path)}
    stream = _load(config, builder, None, streaming=True, data_files=files)
    return HubStream(stream, _num_rows(path) if builder == "parquet" else None)


def _num_rows(path: Path) -> int:
    """Return how many rows a Parquet file says it has."""
    from pyarrow import parquet

    return int(parquet.read_metadata(path).num_rows)


def _load(
    config: DataConfig, name: str, subset: str | None, *, streaming: bool, **options: object
) -> Any:
    library = _library()
    try:
        return library.load_dataset(
            name,
            subset,
            split=config.dataset_split,
            revision=config.dataset_revision if not options else None,
            streaming=streaming,
            **options,
        )
    except (OSError, ValueError, RuntimeError, library.exceptions.DatasetsError) as error:
        raise ConfigError(
            f"data.dataset_name {config.dataset_name!r}: {_first_line(error)}\n"
            f"fix: {_fix(config.dataset_name, error)}"
        ) from error


def _fix(name: str, error: Exception) -> str:
    if not isinstance(error, ConnectionError):
        return "check data.dataset_name, dataset_config, dataset_split and dataset_revision"
    return (
        "this machine does not reach the Hugging Face Hub, and has no copy of the data set in the "
        f"cache of `datasets`; without a network, run on another one `hf download {name} "
        f"--repo-type dataset --local-dir {name}` and start distqatd where that folder is: it then "
        "takes the Hub's place. Or name a file or folder of yours, or data that comes with DistQat"
    )


def _library() -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            "data.dataset_name: Hugging Face data sets and streams need a package; install it "
            "with: pip install datasets"
        ) from error
    return datasets  # type: ignore[no-any-return]


def _undecoded_audio(dataset: Any) -> Any:
    """Have recordings come as bytes: the library's own decoder needs torchcodec and FFmpeg."""
    library = _library()
    for name, feature in (dataset.features or {}).items():
        if type(feature).__name__ == "Audio":
            dataset = dataset.cast_column(name, library.Audio(decode=False))
    return dataset


def _kinds(features: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    kinds = {name: _kind(feature) for name, feature in features.items()}
    labels = [name for name, kind in kinds.items() if kind == LABEL]
    return kinds, {name: tuple(features[name].names) for name in labels}


def _kind(feature: Any) -> str:
    named = _KINDS.get(type(feature).__name__)
    dtype = str(getattr(feature, "dtype", ""))
    if named is not None:
        return named
    if "string" in dtype:
        return TEXT
    if "int" in dtype:
        return NUMBER
    return LIST if dtype == "list" or isinstance(feature, list) else OTHER


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
