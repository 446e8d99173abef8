"""Streams: rows that can only be read in order, made readable by number within a page.

A stream is shuffled within windows of `data.shuffle_buffer` rows (`order.shuffled`), so whoever
reads it needs a window at a time. A page is as long, and two or three of them are kept. Where a
reader jumps, the stream goes on from the nearest mark before: a position seen earlier with the
stream's own state. A process that starts in the middle of a run has no marks and reads from the
beginning up to the batch that the run's ledger names.
"""

from bisect import bisect_right, insort
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Generic, Protocol, TypeVar

from distqatd.base.errors import ConfigError
from distqatd.data.rows import Row

PAGES_KEPT = 3
"""A batch may reach over the end of a window, and windows need not begin where pages do."""

MAX_MARKS = 512

State = TypeVar("State")


class Stream(Protocol):
    """Rows in a fixed order.

    Attributes:
        kinds: the kind of each column, by name, see `rows`.
        names: of the classes of LABEL columns, by column.
    """

    kinds: Mapping[str, str]
    names: Mapping[str, tuple[str, ...]]

    def rows(self, start: int) -> Iterator[Row]:
        """Yield the rows from number `start` on. Ends the iterators returned before."""
        ...


class Marks(Generic[State]):
    """States of a stream by position; of too many, every second one is dropped."""

    def __init__(self, start: State) -> None:
        self._states: dict[int, State] = {0: start}
        self._positions = [0]

    def put(self, position: int, state: State) -> None:
        """Remember the state in which the next row is number `position`."""
        if position in self._states:
            return
        if len(self._positions) >= MAX_MARKS:
            self._positions = self._positions[::2]
            self._states = {place: self._states[place] for place in self._positions}
        self._states[position] = state
        insort(self._positions, position)

    def best(self, position: int) -> tuple[int, State]:
        """Return the last mark that is not after `position`."""
        place = self._positions[bisect_right(self._positions, position) - 1]
        return place, self._states[place]


class StreamRows:
    """The first `num_rows` rows of a stream, by number; see `rows.Rows`. Not thread-safe."""

    def __init__(self, stream: Stream, num_rows: int, page_size: int) -> None:
        self._stream = stream
        self._num_rows = num_rows
        self._page_size = page_size
        self._pages: OrderedDict[int, list[Row]] = OrderedDict()
        self._reader: Iterator[Row] = iter(())
        self._next_page = -1
        self.kinds = stream.kinds
        self.names = stream.names

    def __len__(self) -> int:
        """Return how many rows there are, or should be."""
        return self._num_rows

    def take(self, numbers: Sequence[int]) -> list[Row]:
        """Return the rows `numbers`, in that order.

        Raises:
            ConfigError: the stream ended before one of them.
        """
        return [self._row(number) for number in numbers]

    def values(self, column: str) -> None:
        """Return None: to see all rows, the stream would have to be read through."""

    def _row(self, number: int) -> Row:
        page, place = divmod(number, self._page_size)
        rows = self._page(page)
        if place >= len(rows):
            raise ConfigError(
                f"the stream ended after {page * self._page_size + len(rows)} samples, before "
                f"number {number}; set data.num_samples to what it has"
            )
        return rows[place]

    def _page(self, page: int) -> list[Row]:
        if page not in self._pages:
            if page != self._next_page:
                self._reader = self._stream.rows(page * self._page_size)
            self._pages[page] = list(islice(self._reader, self._page_size))
            self._next_page = page + 1
            if len(self._pages) > PAGES_KEPT:
                self._pages.popitem(last=False)
        self._pages.move_to_end(page)
        return self._pages[page]
