"""Sets of batch numbers as half-open ranges: small, ordered, immutable."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

MAX_INTERVALS = 4096
"""Ranges that `read` takes from a peer, unless told otherwise."""

MAX_NUMBER = 1 << 62
"""Numbers from a peer stay below this, so that sums of them fit any integer on the way."""

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class IntervalSet:
    """A set of integers, kept as sorted ranges [first, end) that do not touch.

    Two equal sets have equal `pairs`. `len(s)` is the count of numbers, not of ranges.

    Attributes:
        pairs: the ranges. Use `from_pairs` to make a set of ranges that overlap or touch.
    """

    pairs: tuple[Pair, ...] = ()

    @classmethod
    def from_pairs(cls, pairs: Iterable[Pair]) -> Self:
        """Return the set of all numbers in the ranges; empty ones add nothing."""
        joined: list[Pair] = []
        for first, end in sorted(pair for pair in pairs if pair[0] < pair[1]):
            if joined and first <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(joined[-1][1], end))
            else:
                joined.append((first, end))
        return cls(tuple(joined))

    def add(self, first: int, end: int) -> "IntervalSet":
        """Return this set with the numbers of [first, end)."""
        if self.pairs and first == self.pairs[-1][1] and first < end:
            # A book grows at its end nearly always.
            return IntervalSet((*self.pairs[:-1], (self.pairs[-1][0], end)))
        return IntervalSet.from_pairs((*self.pairs, (first, end)))

    def union(self, other: "IntervalSet") -> "IntervalSet":
        """Return the numbers that are in either set."""
        if not other.pairs:
            return self
        return IntervalSet.from_pairs((*self.pairs, *other.pairs))

    def minus(self, other: "IntervalSet") -> "IntervalSet":
        """Return the numbers of this set that are not in `other`."""
        left: list[Pair] = []
        cuts = other.pairs
        at = 0
        for first, end in self.pairs:
            while at < len(cuts) and cuts[at][1] <= first:
                at += 1
            i, begin = at, first
            while i < len(cuts) and cuts[i][0] < end:
                left.append((begin, cuts[i][0]))
                begin = cuts[i][1]
                i += 1
            left.append((begin, end))
        return IntervalSet(tuple(pair for pair in left if pair[0] < pair[1]))

    def common(self, other: "IntervalSet") -> "IntervalSet":
        """Return the numbers that are in both sets."""
        return self.minus(self.minus(other))

    def overlap(self, other: "IntervalSet") -> int:
        """Return how many numbers are in both sets."""
        return len(self) - len(self.minus(other))

    def next_missing(self, at: int, end: int) -> int:
        """Return the first number of [at, end) that is not in the set; `end` if all are."""
        index = self._index(at)
        if index < 0 or self.pairs[index][1] <= at:
            return min(at, end)
        return min(self.pairs[index][1], end)

    def __contains__(self, number: int) -> bool:
        """Return whether a number is in the set."""
        index = self._index(number)
        return index >= 0 and number < self.pairs[index][1]

    def __len__(self) -> int:
        """Return how many numbers are in the set."""
        return sum(end - first for first, end in self.pairs)

    def __bool__(self) -> bool:
        """Return whether any number is in the set."""
        return bool(self.pairs)

    def to_list(self) -> list[int]:
        """Return the ranges as a flat list, first, end, first, end: what `read` takes."""
        return [bound for pair in self.pairs for bound in pair]

    @classmethod
    def read(cls, value: Any, max_intervals: int = MAX_INTERVALS) -> Self:
        """Read what `to_list` wrote, from a peer or a file that is not trusted.

        Raises:
            ValueError: it is not a flat list of ascending bounds from 0, or too long.
        """
        if type(value) is not list or len(value) % 2 or len(value) > 2 * max_intervals:
            raise ValueError(f"not a list of at most {max_intervals} ranges")
        if any(type(bound) is not int for bound in value):
            raise ValueError("a bound of a range is not an integer")
        if value and not (value[0] >= 0 and value[-1] < MAX_NUMBER):
            raise ValueError(f"a bound of a range is not within 0 and {MAX_NUMBER}")
        if any(before >= after for before, after in pairwise(value)):
            raise ValueError("the bounds of the ranges do not ascend")
        return cls(tuple(zip(value[::2], value[1::2], strict=True)))

    def __str__(self) -> str:
        """Return the ranges for people, last number included: `0..99, 120`."""
        return ", ".join(
            str(first) if end == first + 1 else f"{first}..{end - 1}" for first, end in self.pairs
        )

    def _index(self, number: int) -> int:
        """Return the index of the last range that begins at or before `number`; -1 if none."""
        return bisect_right(self.pairs, number, key=_first) - 1


def _first(pair: Pair) -> int:
    return pair[0]
