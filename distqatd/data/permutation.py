"""A keyed permutation of [0, n): the shuffled order as a function, without a list.

A trainer that is handed any batch number computes its samples at once, whatever came before. Only
integer arithmetic on 64 bits is used, so the order is the same on every machine and with every
version of numpy and torch, which a library's own shuffle does not promise.
"""

import numpy as np
import numpy.typing as npt

from distqatd.base.rng import stable_seed

_ROUNDS = 6
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)

Uint64s = npt.NDArray[np.uint64]


def permute(numbers: npt.NDArray[np.int64], size: int, *key: object) -> npt.NDArray[np.int64]:
    """Map each of `numbers`, in [0, size), by a permutation of [0, size) that depends on `key`.

    A Feistel network over the next even power of two, walked until the value falls below `size`
    (cycle walking: under four steps on average).  [source: Black and Rogaway, CT-RSA 2002]
    """
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    round_keys = [np.uint64(stable_seed(*key, "round", index)) for index in range(_ROUNDS)]
    values = _feistel(numbers.astype(np.uint64), half_bits, round_keys)
    outside = values >= size
    while outside.any():
        values[outside] = _feistel(values[outside], half_bits, round_keys)
        outside = values >= size
    return values.astype(np.int64)


def _feistel(values: Uint64s, half_bits: int, round_keys: list[np.uint64]) -> Uint64s:
    """Permute [0, 4**half_bits)."""
    shift = np.uint64(half_bits)
    mask = np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for key in round_keys:
        left, right = right, left ^ (mix(right ^ key) & mask)
    return (left << shift) | right


def mix(values: Uint64s) -> Uint64s:
    """Scramble 64 bits.

    [source: the finalizer of splitmix64, Steele, Lea and Flood, OOPSLA 2014]
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(_MULTIPLIERS[0])
    values = (values ^ (values >> np.uint64(27))) * np.uint64(_MULTIPLIERS[1])
    return values ^ (values >> np.uint64(31))
