"""Sets of ranges behave like sets of numbers."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distqatd.base.intervals import IntervalSet

BOUNDS = st.integers(0, 40)
PAIRS = st.lists(st.tuples(BOUNDS, BOUNDS), max_size=8)


def numbers(pairs: list[tuple[int, int]]) -> set[int]:
    return {number for first, end in pairs for number in range(first, end)}


def members(intervals: IntervalSet) -> set[int]:
    return numbers(list(intervals.pairs))


@given(PAIRS)
def test_a_set_of_ranges_holds_the_numbers_of_its_ranges(pairs: list[tuple[int, int]]) -> None:
    intervals = IntervalSet.from_pairs(pairs)
    assert members(intervals) == numbers(pairs)
    assert len(intervals) == len(numbers(pairs))
    assert bool(intervals) == bool(numbers(pairs))
    assert all((n in intervals) == (n in numbers(pairs)) for n in range(-1, 42))


@given(PAIRS)
def test_equal_sets_have_equal_ranges_that_do_not_touch(pairs: list[tuple[int, int]]) -> None:
    intervals = IntervalSet.from_pairs(pairs)
    assert intervals == IntervalSet.from_pairs((n, n + 1) for n in numbers(pairs))
    flat = intervals.to_list()
    assert flat == sorted(set(flat))


@given(PAIRS, PAIRS)
def test_union_difference_and_overlap_are_those_of_sets(
    left: list[tuple[int, int]], right: list[tuple[int, int]]
) -> None:
    a, b = IntervalSet.from_pairs(left), IntervalSet.from_pairs(right)
    assert a.union(b) == IntervalSet.from_pairs(left + right)
    assert members(a.minus(b)) == numbers(left) - numbers(right)
    assert members(a.common(b)) == numbers(left) & numbers(right)
    assert a.overlap(b) == len(numbers(left) & numbers(right))
    assert a.minus(b).to_list() == sorted(set(a.minus(b).to_list()))


@given(PAIRS, BOUNDS, BOUNDS)
def test_adding_a_range_is_a_union_with_it(
    pairs: list[tuple[int, int]], first: int, end: int
) -> None:
    added = IntervalSet.from_pairs(pairs).add(first, end)
    assert added == IntervalSet.from_pairs([*pairs, (first, end)])


@given(PAIRS, BOUNDS, BOUNDS)
def test_next_missing_is_the_first_number_that_is_not_in_the_set(
    pairs: list[tuple[int, int]], at: int, end: int
) -> None:
    missing = [n for n in range(at, end) if n not in numbers(pairs)]
    expected = missing[0] if missing else end
    assert IntervalSet.from_pairs(pairs).next_missing(at, end) == expected


@given(PAIRS)
def test_what_is_written_is_read_back(pairs: list[tuple[int, int]]) -> None:
    intervals = IntervalSet.from_pairs(pairs)
    assert IntervalSet.read(intervals.to_list()) == intervals


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        "0,1",
        (0, 1),
        [0],
        [0, 1, 2],
        [1, 0],
        [0, 0],
        [0, 2, 2, 4],
        [0, 3, 2, 4],
        [-1, 4],
        [0, True],
        [0, 1.0],
        [0, 1 << 62],
        ["0", "1"],
        list(range(2 * 4097)),
    ],
)
def test_what_a_peer_wrote_wrongly_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="range"):
        IntervalSet.read(value)


@given(st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=10))
def test_garbage_is_a_value_error_or_a_set(value: Any) -> None:
    try:
        intervals = IntervalSet.read(value)
    except ValueError:
        return
    assert intervals.to_list() == value


def test_ranges_are_shown_with_their_last_number() -> None:
    assert str(IntervalSet.from_pairs([(0, 100), (120, 121)])) == "0..99, 120"
    assert not str(IntervalSet())
