"""The keyed permutation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distqatd.data.permutation import permute


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 3000), key=st.integers())
def test_every_number_is_drawn_exactly_once(size: int, key: int) -> None:
    assert sorted(permute(np.arange(size), size, key)) == list(range(size))


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 1 << 40), data=st.data())
def test_a_number_maps_to_the_same_place_alone_or_among_others(
    size: int, data: st.DataObject
) -> None:
    numbers = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=8)))
    together = permute(numbers, size, "key")
    alone = [permute(numbers[i : i + 1], size, "key")[0] for i in range(len(numbers))]
    assert together.tolist() == alone
    assert ((together >= 0) & (together < size)).all()


def test_the_order_is_pinned_because_peers_of_other_versions_must_agree() -> None:
    assert permute(np.arange(10), 10, 0, "epoch", 0).tolist() == [3, 1, 9, 0, 2, 8, 4, 6, 5, 7]


def test_the_input_is_not_modified() -> None:
    numbers = np.arange(5)
    permute(numbers, 5, "key")
    assert numbers.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("size", [97, 1438])
def test_places_are_near_uniform_over_keys(size: int) -> None:
    keys = 400
    places = np.array([permute(np.arange(1), size, key)[0] for key in range(keys)])
    counts, _ = np.histogram(places, bins=8, range=(0, size))
    chi_square = ((counts - keys / 8) ** 2 / (keys / 8)).sum()
    assert chi_square < 24.3  # 7 degrees of freedom, p = 0.001
