"""Random numbers by place: draw (sample, index) without those before it.

As in `permutation`, integer arithmetic on 64 bits alone, so that generated data is the same on
every machine and with every version of numpy.
"""

import numpy as np
import numpy.typing as npt

from distqatd.base.rng import stable_seed
from distqatd.data.permutation import Uint64s, mix

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MANTISSA_BITS = 53


def bits(samples: npt.NDArray[np.int64], count: int, *key: object) -> Uint64s:
    """Return `count` numbers of 64 random bits for each sample, uint64 (B, count)."""
    seeds = mix(samples.astype(np.uint64) ^ np.uint64(stable_seed(*key)))
    places = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    return mix(seeds[:, None] + places[None, :])


def uniform(samples: npt.NDArray[np.int64], count: int, *key: object) -> npt.NDArray[np.float64]:
    """Return `count` numbers in [0, 1) for each sample, float64 (B, count)."""
    shift = np.uint64(64 - _MANTISSA_BITS)
    return (bits(samples, count, *key) >> shift).astype(np.float64) / float(1 << _MANTISSA_BITS)


def normal(samples: npt.NDArray[np.int64], count: int, *key: object) -> npt.NDArray[np.float64]:
    """Return `count` standard normal numbers for each sample, float64 (B, count).

    [source: Box and Muller, 1958]
    """
    first, second = (uniform(samples, count, *key, name) for name in ("radius", "angle"))
    drawn: npt.NDArray[np.float64] = np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * np.pi * second)
    return drawn
