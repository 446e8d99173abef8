"""Which columns of a table are input and target, and what its labels mean."""

from collections.abc import Iterable, Mapping

from distqatd.base.errors import ConfigError
from distqatd.config.sections import DataConfig
from distqatd.data.rows import AUDIO, IMAGE, LABEL, LIST, NUMBER, OTHER, TEXT, Rows

PIXELS = (IMAGE, OTHER, LIST)
SOUNDS = (AUDIO, OTHER)
TEXTS = (TEXT,)
CLASSES = (LABEL, NUMBER, TEXT)
"""Kinds of columns that fit, best first."""


def input_column(config: DataConfig, kinds: Mapping[str, str], wanted: tuple[str, ...]) -> str:
    """Return the configured input column, or the only one of the best kind there is.

    Raises:
        ConfigError: there is no such column, or several would do.
    """
    return _column(config, kinds, wanted, "input_column", config.input_column)


def target_column(config: DataConfig, kinds: Mapping[str, str], wanted: tuple[str, ...]) -> str:
    """Return the configured target column, or the only one of the best kind there is.

    Raises:
        ConfigError: there is no such column, or several would do.
    """
    return _column(config, kinds, wanted, "target_column", config.target_column)


def _column(
    config: DataConfig,
    kinds: Mapping[str, str],
    wanted: tuple[str, ...],
    key: str,
    name: str | None,
) -> str:
    there = ", ".join(f"{column} ({kind})" for column, kind in kinds.items())
    if name is not None:
        if name not in kinds:
            raise ConfigError(f"data.{key} {name!r} is no column of {config.dataset_name}: {there}")
        return name
    for kind in wanted:
        found = [column for column in kinds if kinds[column] == kind]
        if len(found) == 1:
            return found[0]
        if found:
            break
    raise ConfigError(
        f"data.{key}: {config.dataset_name} has the columns {there}; say which is meant"
    )


class Labels:
    """Labels as numbers from 0.

    Attributes:
        names: of the classes, in order; empty where labels are numbers without names.
        num_classes: C.
    """

    def __init__(self, names: Iterable[str], num_classes: int = 0) -> None:
        """Take the names of the classes, or only how many there are."""
        self.names = tuple(names)
        self.num_classes = len(self.names) or num_classes
        self._numbers = {name: number for number, name in enumerate(self.names)}

    def number(self, label: object) -> int:
        """Return the number of a label, a name or a number already.

        Raises:
            ConfigError: it is none of the classes.
        """
        number = self._numbers.get(label, -1) if isinstance(label, str) else label
        if not isinstance(number, int) or not 0 <= number < self.num_classes:
            known = ", ".join(self.names[:20]) or f"0 to {self.num_classes - 1}"
            raise ConfigError(f"label {label!r} is none of data.classes: {known}")
        return number


def find_labels(config: DataConfig, rows: Rows, column: str) -> Labels:
    """Return the classes: configured, declared by the table, or found in the column.

    Raises:
        ConfigError: the rows are a stream that declares none.
    """
    declared = config.classes or rows.names.get(column, ())
    if declared:
        return Labels(declared)
    values = rows.values(column)
    if values is None:
        raise ConfigError(
            f"data.classes: column {column} of the stream {config.dataset_name} does not tell its "
            "classes; list their names, in order"
        )
    found = sorted(set(values), key=str)
    if all(isinstance(value, int) for value in found):
        return Labels((), max(found, default=0) + 1)
    return Labels(str(value) for value in found)
