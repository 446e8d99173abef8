"""Robust factors from the Gram matrix equal those from the vectors themselves."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distqatd.base.errors import NonFinite
from distqatd.optim.robust import ITERATIONS, gram, shares


def centered_directly(rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    centre = torch.zeros(rows.shape[1], dtype=torch.float64)
    for _ in range(ITERATIONS):
        moves = rows - centre
        lengths = moves.norm(dim=1)
        factors = (lengths.median() / lengths.clamp(min=1e-30)).clamp(max=1.0)
        centre = centre + (weights * factors) @ moves
    return centre


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(1, 200), st.integers(0, 999))
def test_centered_clipping_needs_only_inner_products(num, size, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(num, size, generator=generator) * torch.rand(num, 1, generator=generator)
    weights = torch.rand(num, generator=generator).double() + 0.1
    weights /= weights.sum()
    cuts = [0, size // 3, size]
    parts = [gram(list(rows[:, a:b])) for a, b in itertools.pairwise(cuts)]
    made = shares(sum(parts), dict(enumerate(weights.tolist())), clip_factor=None, is_centered=True)
    found = sum(factor * rows[i].double() for i, factor in made.params.items())
    wanted = centered_directly(rows.double(), weights)
    assert float((found - wanted).norm()) <= 1e-3 * float(rows.norm())
    assert sum(made.others.values()) == pytest.approx(1.0)


def test_who_is_not_finite_is_left_out_and_the_others_count_for_more() -> None:
    rows = [torch.ones(5), torch.full((5,), torch.inf), torch.ones(5)]
    made = shares(gram(rows), {0: 0.25, 3: 0.5, 7: 0.25}, clip_factor=None)
    assert made.dropped == {3}
    assert made.params == {0: 0.5, 7: 0.5}


def test_nothing_finite_is_an_error() -> None:
    with pytest.raises(NonFinite):
        shares(gram([torch.full((3,), torch.nan)]), {0: 1.0}, clip_factor=2.0)


def test_zeros_are_zeros() -> None:
    made = shares(gram([torch.zeros(4)] * 2), {0: 0.5, 1: 0.5}, clip_factor=1.0, is_centered=True)
    assert sum(made.others.values()) == pytest.approx(1.0)
