"""Tables and folders of this machine as rows: JSON, JSON lines, Parquet, images, recordings.

A folder of images or recordings has a folder for each class. Recordings may also lie side by
side, with the class before the first underscore, as `7_jackson_32.wav` of the Free Spoken Digit
Dataset.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from distqatd.base.errors import ConfigError
from distqatd.data.rows import AUDIO, IMAGE, LABEL, ListRows, Row, Rows, kinds_of

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".tiff"})
AUDIO_SUFFIXES = frozenset({".wav"})
TABLE_SUFFIXES = frozenset({".json", ".jsonl", ".parquet"})
_FOLDER_TABLES = frozenset({".jsonl", ".parquet"})
"""A `.json` beside images or recordings may be anything."""


def find_path(name: str) -> Path | None:
    """Return the file or folder of this machine that `name` is the path of, if there is one."""
    path = Path(name).expanduser()
    return path if path.exists() else None


def holds_tables(path: Path) -> bool:
    """Return whether `path` is a folder of tables, such as a copy of a data set of the Hub."""
    if not path.is_dir():
        return False
    return any(found.suffix in _FOLDER_TABLES for found in path.rglob("*"))


def open_table(path: Path) -> Rows:
    """Open a table by its suffix, one of TABLE_SUFFIXES.

    Raises:
        ConfigError: it cannot be read, or is not a table.
    """
    openers: dict[str, Callable[[Path], Rows]] = {
        ".json": _open_json,
        ".jsonl": JsonLines,
        ".parquet": _open_parquet,
    }
    try:
        return openers[path.suffix](path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"data.dataset_name {str(path)!r}: {error}") from error


def open_image_folder(folder: Path) -> Rows:
    """Return the images of a folder of folders: columns `image` (path) and `label`."""
    return _files(folder, IMAGE_SUFFIXES, "image", IMAGE)


def open_wav_folder(folder: Path) -> Rows:
    """Return the recordings of a folder: columns `audio` (path) and `label`."""
    return _files(folder, AUDIO_SUFFIXES, "audio", AUDIO)


class JsonLines:
    """A file with a JSON object on every line, read a line at a time; see `rows.Rows`."""

    kinds: Mapping[str, str]
    names: Mapping[str, tuple[str, ...]]

    def __init__(self, path: Path) -> None:
        """Note where lines begin; the file is not kept in memory.

        Raises:
            OSError: it cannot be read.
            ValueError: its first line is no JSON object.
        """
        self._path = path
        with path.open("rb") as file:
            ends = np.cumsum([0, *(len(line) for line in file)])
        self._starts = ends[:-1]
        self.kinds = kinds_of(self.take([0])[0]) if len(self) else {}
        self.names = {}

    def __len__(self) -> int:
        """Return how many lines there are."""
        return len(self._starts)

    def take(self, numbers: Sequence[int]) -> list[Row]:
        """Return the rows `numbers`, in that order."""
        with self._path.open("rb") as file:
            return [self._read(file, number) for number in numbers]

    def values(self, column: str) -> Iterable[Any]:
        """Return the column from the first row to the last."""
        return (self.take([number])[0][column] for number in range(len(self)))

    def _read(self, file: Any, number: int) -> Row:
        file.seek(int(self._starts[number]))
        return _object(json.loads(file.readline()), f"line {number + 1}")


def _open_json(path: Path) -> ListRows:
    rows = json.loads(path.read_bytes())
    if not isinstance(rows, list):
        raise ConfigError(
            f"data.dataset_name {str(path)!r} is no list of objects; a file with one object on "
            "each line needs the suffix .jsonl"
        )
    return ListRows([_object(row, f"entry {number}") for number, row in enumerate(rows)])


def _open_parquet(path: Path) -> Rows:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError("a Parquet file needs a package: pip install pyarrow") from error
    return ArrowRows(parquet.read_table(path))


class ArrowRows:
    """A table of Apache Arrow; see `rows.Rows`."""

    kinds: Mapping[str, str]
    names: Mapping[str, tuple[str, ...]]

    def __init__(self, table: Any) -> None:
        self._table = table
        self.kinds = kinds_of(self.take([0])[0]) if len(self) else {}
        self.names = {}

    def __len__(self) -> int:
        """Return how many rows there are."""
        return int(self._table.num_rows)

    def take(self, numbers: Sequence[int]) -> list[Row]:
        """Return the rows `numbers`, in that order."""
        rows: list[Row] = self._table.take([int(number) for number in numbers]).to_pylist()
        return rows

    def values(self, column: str) -> Iterable[Any]:
        """Return the column from the first row to the last."""
        return (value.as_py() for value in chain(self._table[column]))


def _object(value: object, where: str) -> Row:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is no JSON object")
    return value


def _files(folder: Path, suffixes: frozenset[str], column: str, kind: str) -> ListRows:
    """List files in order of name, with their labels.

    Raises:
        ConfigError: there is none.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    if not paths:
        raise ConfigError(
            f"data.dataset_name {str(folder)!r} has no files {', '.join(sorted(suffixes))}"
        )
    rows = [{column: path, "label": _label(path, folder)} for path in paths]
    return ListRows(rows, {column: kind, "label": LABEL})


def _label(path: Path, folder: Path) -> str:
    beside = path.parent == folder
    return path.stem.split("_")[0] if beside else path.relative_to(folder).parts[0]
