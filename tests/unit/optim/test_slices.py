"""Partition and bandwidth shares: exact cover, and the shortest round."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distqatd.optim.slices import ALIGNMENT, bandwidth_fractions, partition

weights = st.lists(st.floats(0, 1e6, allow_nan=False), min_size=1, max_size=20)


@settings(max_examples=200, deadline=None)
@given(num=st.integers(0, 10_000_000), weights=weights)
def test_slices_cover_the_vector_exactly_in_order_and_begin_aligned(num, weights):
    bounds = partition(num, weights)
    assert len(bounds) == len(weights)
    assert bounds[0][0] == 0
    assert bounds[-1][1] == num
    for (_, end), (begin, _) in itertools.pairwise(bounds):
        assert end == begin
    assert all(begin <= end for begin, end in bounds)
    assert all(begin % ALIGNMENT == 0 for begin, end in bounds if begin < end)


@settings(max_examples=100, deadline=None)
@given(num=st.integers(0, 10_000_000), weights=weights)
def test_slices_are_within_one_alignment_of_their_share(num, weights):
    if sum(weights) == 0:
        return
    for (begin, end), weight in zip(partition(num, weights), weights, strict=True):
        assert abs(end - begin - num * weight / sum(weights)) <= ALIGNMENT + 1e-3
        assert weight > 0 or begin == end


def test_weights_of_zero_everywhere_count_as_equal():
    assert partition(4096, [0.0, 0.0]) == ((0, 2048), (2048, 4096))


@pytest.mark.parametrize("weights", [[], [-1.0, 2.0], [float("nan")]])
def test_senseless_weights_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        partition(10, weights)


def round_time(shares, bandwidths):
    num = len(shares)
    return max((1 + f * (num - 2)) / b for f, b in zip(shares, bandwidths, strict=True) if b > 0)


@settings(max_examples=200, deadline=None)
@given(bandwidths=st.lists(st.floats(0.1, 1000), min_size=3, max_size=12), data=st.data())
def test_no_other_shares_give_a_shorter_round(bandwidths, data):
    shares = bandwidth_fractions(bandwidths)
    assert sum(shares) == pytest.approx(1)
    assert min(shares) >= 0
    raw = data.draw(st.lists(st.floats(0.001, 1), min_size=len(shares), max_size=len(shares)))
    other = [value / sum(raw) for value in raw]
    best = round_time(shares, bandwidths)
    # A very slow member is bound by its own upload whatever the shares are.
    assert best <= round_time(other, bandwidths) * (1 + 1e-9)


def test_equal_bandwidths_give_equal_shares():
    assert bandwidth_fractions([5.0] * 4) == pytest.approx((0.25,) * 4)


def test_members_that_cannot_be_reached_reduce_nothing():
    assert bandwidth_fractions([10.0, 0.0, 10.0]) == pytest.approx((0.5, 0, 0.5))
    assert bandwidth_fractions([0.0, 3.0]) == (0.0, 1.0)
    assert bandwidth_fractions([0.0, 0.0, 0.0]) == pytest.approx((1 / 3,) * 3)


def test_a_lone_member_reduces_everything():
    assert bandwidth_fractions([7.0]) == (1.0,)
