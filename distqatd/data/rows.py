"""Rows of a table: a data set as it lies on disk; and samples, decoded from rows."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from distqatd.data.source import Raw

Row = Mapping[str, Any]

IMAGE, AUDIO, TEXT, LABEL, NUMBER, LIST, OTHER = (
    "image",
    "audio",
    "text",
    "label",
    "number",
    "list",
    "other",
)
"""Kinds of columns. A label is a number whose names are known, or the name itself."""


class Rows(Protocol):
    """Rows by number.

    Attributes:
        kinds: the kind of each column, by name.
        names: what the numbers of a LABEL column mean, by column; empty for labels as text.
    """

    kinds: Mapping[str, str]
    names: Mapping[str, tuple[str, ...]]

    def __len__(self) -> int:
        """Return how many rows there are."""
        ...

    def take(self, numbers: Sequence[int]) -> list[Row]:
        """Return the rows `numbers`, in that order."""
        ...

    def values(self, column: str) -> Iterable[Any] | None:
        """Return the column from the first row to the last; None if that takes a download."""
        ...


class ListRows:
    """Rows that are in memory."""

    names: Mapping[str, tuple[str, ...]]

    def __init__(self, rows: Sequence[Row], kinds: Mapping[str, str] | None = None) -> None:
        """Keep `rows`; without `kinds`, they are those of the first row's values."""
        self._rows = rows
        self.kinds = kinds if kinds is not None else kinds_of(rows[0]) if rows else {}
        self.names = {}

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self._rows)

    def take(self, numbers: Sequence[int]) -> list[Row]:
        """Return the rows `numbers`, in that order."""
        return [self._rows[number] for number in numbers]

    def values(self, column: str) -> Iterable[Any]:
        """Return the column from the first row to the last."""
        return (row[column] for row in self._rows)


class Decoder(Protocol):
    """Makes tensors of rows, see `source.Source`."""

    num_classes: int

    def decode(self, rows: Sequence[Row]) -> Raw:
        """Return inputs and targets of the rows."""
        ...


class RowSource:
    """A `Source` whose samples are rows."""

    def __init__(self, rows: Rows, decoder: Decoder) -> None:
        self._rows = rows
        self._decoder = decoder
        self.num_samples = len(rows)
        self.num_classes = decoder.num_classes

    def read(self, numbers: Tensor) -> Raw:
        """Return inputs and targets of the rows `numbers`."""
        return self._decoder.decode(self._rows.take(numbers.tolist()))


def kinds_of(row: Row) -> dict[str, str]:
    """Return the kind of each value of a row whose table does not declare them."""
    return {name: _kind(value) for name, value in row.items()}


def _kind(value: object) -> str:
    kinds: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (str, TEXT),
        (int, NUMBER),
        (list, LIST),
        # Bytes of a file, alone or as Hugging Face writes them, with a path beside them.
        ((bytes, dict, Path), OTHER),
    )
    return next((kind for types, kind in kinds if isinstance(value, types)), OTHER)
