"""What tables are made of: cells that are safe for a terminal, columns, marks."""

import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from distqatctl.text import clean

_PLAIN_WIDTH = 10_000
"""Columns assumed where there is no terminal: what is piped must not be cut."""

GOOD, BAD, DIM = "green", "yellow", "dim"


def console() -> Console:
    """Return where tables go: standard output as it is now."""
    width = None if sys.stdout.isatty() else _PLAIN_WIDTH
    return Console(width=width, highlight=False, markup=False, emoji=False)


def cell(value: object, style: str = "") -> Text:
    """Return a value as text that cannot move the cursor."""
    return Text(clean(str(value)), style=style)


def table(*headers: str) -> Table:
    """Return a table without lines."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    for header in headers:
        made.add_column(header, no_wrap=True)
    return made


def row(target: Table, *cells: object) -> None:
    """Add a row; what is no text yet becomes a cell."""
    target.add_row(*[each if isinstance(each, Text) else cell(each) for each in cells])


def mark(word: str, *, good: bool) -> Text:
    """Return a word behind a round mark if it is good, else behind a pointed one."""
    return cell(f"{'●' if good else '▲'} {word}", GOOD if good else BAD)
