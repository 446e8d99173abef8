"""Averages that a few bad contributions cannot carry away, from inner products alone.

Norms, distances and centered clipping need only the Gram matrix of the contributions, and that is
a sum over slices: whoever owns a slice computes its part, and all derive the same coefficients from
the sum. P = contributions.
"""
# ruff: noqa: N803, N806  names end in the letters of their shape

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distqatd.base.errors import NonFinite

ITERATIONS = 3
"""Of centered clipping; a fourth moves the result by less than a per cent."""

_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True)
class Shares:
    """With which factor each contribution goes into the mean, by index.

    Attributes:
        params: factors of parameters; their sum may be below 1 where something was shortened.
        others: factors of statistics, in proportion; they sum to 1.
        dropped: who was left out because of NaN or infinite values, and is in neither.
        norms: length of each contribution that was not dropped, where it was measured.
    """

    params: Mapping[int, float]
    others: Mapping[int, float]
    dropped: frozenset[int] = frozenset()
    norms: Mapping[int, float] = field(default_factory=dict)


@torch.no_grad()
def gram(rows: Sequence[Tensor]) -> Tensor:
    """Return inner products of equally long float32 vectors, float64 (P, P).

    Products of blocks in fp32, their sum in fp64. NaN and infinities stay in their rows.
    """
    total_PP = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    size = rows[0].numel() if rows else 0
    for start in range(0, size, _BLOCK):
        block = torch.stack([row[start : start + _BLOCK] for row in rows])
        total_PP += (block @ block.T).double()
    return total_PP


def shares(
    gram_PP: Tensor,
    weights: Mapping[int, float],
    *,
    clip_factor: float | None,
    past_norms: Sequence[float] = (),
    is_centered: bool = False,
) -> Shares:
    """Return the factors of a robust mean.

    Args:
        gram_PP: of the contributions, in ascending order of their index.
        weights: share of each in a plain mean, by index.
        clip_factor: contributions longer than this times the median length, of these and of past
            rounds, are shortened to it; None shortens none.
        past_norms: median lengths of past rounds.
        is_centered: centered clipping [source: Karimireddy et al., arXiv:2012.10333]: from 0, move
            three times to the weighted mean of the contributions as seen from there, those
            further away than the median distance shortened to it.

    Raises:
        NonFinite: no contribution is finite.
    """
    members = sorted(weights)
    squares = {m: float(gram_PP[i, i]) for i, m in enumerate(members)}
    good = [m for m in members if 0.0 <= squares[m] < float("inf")]
    if not good:
        raise NonFinite("no contribution is finite")
    norms = {m: squares[m] ** 0.5 for m in good}
    plain = _to_one({m: weights[m] for m in good})
    factors = _clip_factors(norms, clip_factor, past_norms)
    if is_centered:
        rows = torch.tensor([members.index(m) for m in good])
        scale = torch.tensor([factors[m] for m in good], dtype=torch.float64)
        inner = gram_PP[rows][:, rows] * scale[:, None] * scale[None, :]
        found = _centered(inner, torch.tensor([plain[m] for m in good], dtype=torch.float64))
        plain = dict(zip(good, found.tolist(), strict=True))
    params = {m: plain[m] * factors[m] for m in good}
    return Shares(params, _to_one(params, plain), frozenset(members) - set(good), norms)


def _clip_factors(
    norms: Mapping[int, float], clip_factor: float | None, past_norms: Sequence[float]
) -> dict[int, float]:
    if clip_factor is None:
        return dict.fromkeys(norms, 1.0)
    bound = clip_factor * statistics.median([*past_norms, statistics.median(norms.values())])
    return {m: min(1.0, bound / norm) if norm > 0 else 1.0 for m, norm in norms.items()}


def _centered(gram_PP: Tensor, weights_P: Tensor) -> Tensor:
    """Return the coefficients of the clipped centre in terms of the contributions."""
    centre_P = torch.zeros_like(weights_P)
    for _ in range(ITERATIONS):
        cross_P = gram_PP @ centre_P
        squares_P = gram_PP.diagonal() - 2 * cross_P + centre_P @ cross_P
        distances_P = squares_P.clamp(min=0.0).sqrt()
        # With an even number the lower of the two in the middle: half may be bad.
        radius = float(distances_P.median())
        moves_P = weights_P * (radius / distances_P.clamp(min=1e-30)).clamp(max=1.0)
        centre_P = centre_P * (1 - moves_P.sum()) + moves_P
    return centre_P


def _to_one(
    values: Mapping[int, float], otherwise: Mapping[int, float] | None = None
) -> dict[int, float]:
    """Return values in proportion with sum 1; if they are all 0, those of `otherwise` or equal."""
    total = sum(values.values())
    if total > 0:
        return {key: value / total for key, value in values.items()}
    return _to_one(otherwise) if otherwise else dict.fromkeys(values, 1 / len(values))
