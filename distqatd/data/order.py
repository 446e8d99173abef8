"""Which sample stands where: the split into training and validation, and the order of an epoch.

Everything here is arithmetic on numbers, so that any batch is found without those before it.

Samples that can be read by number are shuffled all together. A stream can only be read in order:
it is shuffled as by a buffer that is filled with `window` samples, emptied in a keyed order, and
filled again. What such a buffer holds follows from a position alone, so that there is no state to
save: the position, which the run's ledger of batches keeps, is the whole state.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from distqatd.data.permutation import permute
from distqatd.data.source import Source

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """Some samples of a source, in a fixed order.

    Attributes:
        source: what is read.
        num_samples: how many samples the split has.
        numbers: maps places in [0, num_samples) to numbers of the source.
    """

    source: Source
    num_samples: int
    numbers: Callable[[Int64s], Int64s]


def whole(source: Source, limit: int | None = None) -> Split:
    """Return the first `limit` samples of `source`, or all, in their own order."""
    return Split(
        source, min(limit or source.num_samples, source.num_samples), lambda places: places
    )


def held_out(
    source: Source, name: str, fraction: float, limit: int | None, *, in_order: bool
) -> tuple[Split, Split]:
    """Split `source` into what is kept for validation and what is trained on.

    Neither depends on the run's seed, so that runs with several seeds can be compared.

    Args:
        source: what is split.
        name: keys the choice.
        fraction: share of the samples that is kept.
        limit: samples that are kept at most.
        in_order: keep the first samples instead of any: what a stream can do.

    Returns:
        The validation split and the training split.
    """
    total = source.num_samples
    kept = min(round(total * fraction), limit or total)
    pick = _shift if in_order else partial(_pick, total, name)
    return (
        Split(source, kept, partial(pick, 0)),
        Split(source, total - kept, partial(pick, kept)),
    )


def _pick(total: int, name: str, offset: int, places: Int64s) -> Int64s:
    return permute(places + offset, total, name, "split")


def _shift(offset: int, places: Int64s) -> Int64s:
    return places + offset


def shuffled(positions: Int64s, size: int, window: int | None, *key: object) -> Int64s:
    """Return which of `size` samples stand at `positions` of an epoch.

    Args:
        positions: in [0, size).
        size: samples in an epoch.
        window: samples that are shuffled together, as by a buffer; None: all.
        key: decides the order: the seed and the epoch.
    """
    if window is None or window >= size:
        return permute(positions, size, *key)
    windows = positions // window
    order = np.empty_like(positions)
    for index in np.unique(windows):
        inside = windows == index
        start = int(index) * window
        width = min(window, size - start)
        order[inside] = start + permute(positions[inside] - start, width, *key, "window", index)
    return order
