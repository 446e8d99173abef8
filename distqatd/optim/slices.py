"""Which part of the flat vector each member of a round reduces."""

from collections.abc import Sequence

ALIGNMENT = 1024
"""Slices begin at multiples of this many elements, so that block-wise codecs never straddle two."""

Bounds = tuple[int, int]
"""First element, and one past the last."""


def partition(num_elements: int, weights: Sequence[float]) -> tuple[Bounds, ...]:
    """Cut a vector into one slice per weight, in proportion, covering it exactly.

    Every slice but the last non-empty one ends at a multiple of ALIGNMENT. A weight of 0 gives an
    empty slice; if all are 0 they count as equal.

    Raises:
        ValueError: there are no weights, or one is negative or not a number.
    """
    if not weights or not all(weight >= 0 for weight in weights):
        raise ValueError(f"weights must be at least one number of 0 or more, not {weights}")
    shares = list(weights) if sum(weights) > 0 else [1.0] * len(weights)
    last = max(index for index, share in enumerate(shares) if share > 0)
    total = sum(shares)
    bounds: list[Bounds] = []
    begin, sum_shares = 0, 0.0
    for index, share in enumerate(shares):
        sum_shares += share
        end = num_elements if index >= last else _aligned(num_elements * sum_shares / total)
        end = max(begin, min(end, num_elements)) if share > 0 else begin
        bounds.append((begin, end))
        begin = end
    return tuple(bounds)


def bandwidth_fractions(bandwidths: Sequence[float]) -> tuple[float, ...]:
    """Return the share of the vector each of n members should reduce for the shortest round.

    A member that reduces the share f sends 1 - f of the vector out and f back to n - 1 others, in
    all 1 + f (n - 2), at its bandwidth b. All that take part end at the same time T when
    f = (T b - 1) / (n - 2); members for whom that is negative reduce nothing.

    Args:
        bandwidths: upload, any unit; 0 for a member that nobody can reach (client mode). If all
            are 0 the shares are equal.

    Returns:
        Shares that add up to 1, in the order given.
    """
    num = len(bandwidths)
    reachable = [b > 0 for b in bandwidths]
    if not any(reachable):
        return (1 / num,) * num
    if num <= 2:
        # The time does not depend on the shares: everybody sends the vector once.
        return tuple(is_reachable / sum(reachable) for is_reachable in reachable)
    time_s = _shortest_time(sorted(bandwidths, reverse=True), num)
    shares = [max(0.0, (time_s * b - 1) / (num - 2)) for b in bandwidths]
    return tuple(share / sum(shares) for share in shares)


def _aligned(position: float) -> int:
    return round(position / ALIGNMENT) * ALIGNMENT


def _shortest_time(fastest_first: Sequence[float], num: int) -> float:
    """Return T for which the shares of the k fastest add up to 1, with the largest k that can.

    sum (T b - 1) = n - 2 over k members gives T = (n - 2 + k) / sum b. As the next member has
    less bandwidth, it takes part exactly if its own share at the T found so far is positive.
    """
    time_s = float("inf")
    sum_bandwidth = 0.0
    for k, bandwidth in enumerate(fastest_first, start=1):
        if time_s * bandwidth <= 1:
            break
        sum_bandwidth += bandwidth
        time_s = (num - 2 + k) / sum_bandwidth
    return time_s
