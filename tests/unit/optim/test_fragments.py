"""Fragments cover every parameter once, are about equal, and put back what they took."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distqatd.base.errors import CheckpointError, ConfigError
from distqatd.optim.flat import FlatLayout
from distqatd.optim.fragments import Fragments, cut
from tests.support.experts import make_stage

SIZES = st.lists(st.integers(1, 5000), min_size=1, max_size=40)


@given(SIZES, st.integers(1, 8))
def test_ranges_cover_everything_once_and_are_balanced(sizes, num_fragments) -> None:
    total = sum(sizes)
    num_fragments = min(num_fragments, total)
    spans = cut(sizes, num_fragments)
    assert [start for start, _ in spans] == [0, *(stop for _, stop in spans[:-1])]
    assert (spans[-1][1], len(spans)) == (total, num_fragments)
    even = total / num_fragments
    assert all(abs(stop - start - even) <= even / 4 + 1 for start, stop in spans)
    assert all(stop > start for start, stop in spans)


@pytest.mark.parametrize(
    ("sizes", "spans"),
    [
        ([48, 52], ((0, 48), (48, 100))),  # an edge is near
        ([20, 80], ((0, 50), (50, 100))),  # none is
    ],
)
def test_a_tensor_is_cut_only_where_no_edge_is_near(sizes, spans) -> None:
    assert cut(sizes, 2) == spans


@given(st.integers(1, 5), st.integers(0, 1000))
def test_fragments_put_back_what_they_took(num_fragments, seed) -> None:
    layout = FlatLayout(make_stage("resnet18.front"))
    fragments = Fragments(layout, num_fragments)
    whole = torch.randn(layout.num_exchanged, generator=torch.Generator().manual_seed(seed))
    given_back = torch.zeros(layout.num_params)
    for fragment in range(num_fragments):
        values = fragments.take(whole, fragment)
        assert values.numel() == layout.num_exchanged - fragments.num_left_out(fragment)
        back = fragments.put(values, fragment)
        assert torch.equal(back[layout.num_params :], whole[layout.num_params :])
        given_back += back[: layout.num_params]
    assert torch.equal(given_back, whole[: layout.num_params])
    assert fragments.put(fragments.take(whole, None), None) is whole


def test_what_does_not_fit_is_refused() -> None:
    layout = FlatLayout(make_stage("mlp.full"))
    fragments = Fragments(layout, 2)
    with pytest.raises(CheckpointError, match="this stage needs"):
        fragments.put(torch.zeros(3), 1)
    with pytest.raises(ConfigError, match=r"diloco\.fragments 100000 is above"):
        Fragments(layout, 100_000)
