"""Exact resume, of shuffled tables and streams: nothing repeated, nothing lost, same order."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distqatd.base.errors import ConfigError
from distqatd.config.sections import DataConfig
from distqatd.data.batches import Dataset, open_dataset
from distqatd.data.order import shuffled
from distqatd.data.streams import MAX_MARKS, Marks, StreamRows

NUM_EXAMPLES = 10_000
KEPT = 400
BATCH = 16
WINDOW = 1000
NUM_BATCHES = (NUM_EXAMPLES - KEPT) // BATCH


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a table of 10,000 rows whose pixel is their number."""
    path = tmp_path_factory.mktemp("table") / "rows.jsonl"
    lines = (json.dumps({"pixel": [n], "label": n % 7}) for n in range(NUM_EXAMPLES))
    path.write_text("\n".join(lines) + "\n")
    return path


def opened(path: Path, *, streaming: bool) -> Dataset:
    """Open the table as a process does that has just started."""
    config = DataConfig(
        dataset_name=str(path),
        img_size=1,
        streaming=streaming,
        shuffle_buffer=WINDOW,
        num_samples=NUM_EXAMPLES if streaming else None,
        classes=tuple("abcdefg"),
        validation_fraction=KEPT / NUM_EXAMPLES,
    )
    return open_dataset(config, seed=3, batch_size=BATCH)


def examples(dataset: Dataset, batches: range) -> list[int]:
    drawn = (dataset.batch(number).inputs[0].flatten() for number in batches)
    return [int(number) for batch in drawn for number in batch]


@cache
def uninterrupted(path: Path, streaming: bool) -> tuple[int, ...]:
    return tuple(examples(opened(path, streaming=streaming), range(NUM_BATCHES)))


@pytest.mark.parametrize("streaming", [False, True])
def test_an_epoch_and_validation_are_all_examples_once(table: Path, streaming: bool) -> None:
    dataset = opened(table, streaming=streaming)
    kept = [int(n) for batch in dataset.validation_batches() for n in batch.inputs[0].flatten()]
    epoch = uninterrupted(table, streaming)
    assert sorted([*kept, *epoch]) == list(range(NUM_EXAMPLES))
    assert list(epoch) != sorted(epoch)


@settings(max_examples=6, deadline=None)
@given(stop=st.integers(0, NUM_BATCHES - 1), data=st.data())
def test_a_stream_goes_on_after_a_stop_anywhere(
    table: Path, stop: int, data: st.DataObject
) -> None:
    """The process that ran ends; a new one knows nothing but the batch that comes next."""
    follow = range(stop, min(stop + data.draw(st.integers(1, 80)), NUM_BATCHES))
    resumed = examples(opened(table, streaming=True), follow)
    expected = uninterrupted(table, streaming=True)
    assert resumed == list(expected[stop * BATCH : follow.stop * BATCH])


@settings(max_examples=8, deadline=None)
@given(stop=st.integers(0, NUM_BATCHES - 1))
def test_a_table_goes_on_after_a_stop_anywhere(table: Path, stop: int) -> None:
    follow = range(stop, min(stop + 20, NUM_BATCHES))
    resumed = examples(opened(table, streaming=False), follow)
    expected = uninterrupted(table, streaming=False)
    assert resumed == list(expected[stop * BATCH : follow.stop * BATCH])


@settings(max_examples=5, deadline=None)
@given(numbers=st.lists(st.integers(0, 2 * NUM_BATCHES - 1), min_size=1, max_size=6))
def test_a_stream_serves_batches_in_any_order(table: Path, numbers: list[int]) -> None:
    dataset = opened(table, streaming=True)
    for number in numbers:
        if number < NUM_BATCHES:
            expected = uninterrupted(table, streaming=True)[number * BATCH : (number + 1) * BATCH]
            assert examples(dataset, range(number, number + 1)) == list(expected)
        else:
            assert len(examples(dataset, range(number, number + 1))) == BATCH


def test_the_second_epoch_has_the_same_examples_in_another_order(table: Path) -> None:
    first = uninterrupted(table, streaming=True)
    second = examples(opened(table, streaming=True), range(NUM_BATCHES, 2 * NUM_BATCHES))
    assert sorted(first) == sorted(second)
    assert list(first) != second


def test_a_stream_shorter_than_it_should_be_says_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "short.jsonl"
    path.write_text('{"pixel": [1], "label": 0}\n' * 50)
    dataset = open_dataset(
        DataConfig(
            dataset_name=str(path),
            img_size=1,
            streaming=True,
            num_samples=100,
            classes=("a",),
            shuffle_buffer=10,
        ),
        seed=0,
        batch_size=10,
    )
    with pytest.raises(ConfigError, match=r"after 50 samples.*data\.num_samples"):
        examples(dataset, range(8))


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 500), window=st.integers(1, 120), key=st.integers())
def test_a_window_is_emptied_before_the_next_is_filled(size: int, window: int, key: int) -> None:
    order = shuffled(np.arange(size), size, window, key)
    for start in range(0, size, window):
        stop = min(start + window, size)
        assert sorted(order[start:stop]) == list(range(start, stop)) or window >= size
    assert sorted(order) == list(range(size))


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 500), window=st.integers(1, 120), data=st.data())
def test_places_in_a_window_do_not_depend_on_those_asked_with_them(
    size: int, window: int, data: st.DataObject
) -> None:
    places = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=9)))
    alone = [shuffled(places[i : i + 1], size, window, 1)[0] for i in range(len(places))]
    assert shuffled(places, size, window, 1).tolist() == alone


class Counted:
    """A stream of numbers that notes from where it was read."""

    def __init__(self) -> None:
        self.kinds = {"n": "number"}
        self.names = {}
        self.starts: list[int] = []

    def rows(self, start: int) -> Iterator[dict[str, int]]:
        self.starts.append(start)
        return ({"n": number} for number in range(start, 1000))


def test_reading_on_opens_the_stream_once_and_keeps_few_pages() -> None:
    stream = Counted()
    rows = StreamRows(stream, 1000, page_size=10)
    assert [row["n"] for row in rows.take(range(200))] == list(range(200))
    assert stream.starts == [0]
    assert len(rows._pages) == 3
    assert rows.take([195, 5])[1]["n"] == 5
    assert stream.starts == [0, 0]


def test_marks_are_bounded_and_the_nearest_before_is_found() -> None:
    marks = Marks("begin")
    for position in range(10, 50_000, 10):
        marks.put(position, str(position))
    assert len(marks._states) <= MAX_MARKS
    position, state = marks.best(37_777)
    assert state == str(position)
    assert 0 < 37_777 - position < 5000
    assert marks.best(3) == (0, "begin")
