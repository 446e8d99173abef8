"""A function of one's own between source and model, from a package that is installed.

It is named by an entry point in the group `distqat.transforms`, and a run names that entry point:
code never comes from the network. It runs in the data server, a process of its own, never in a
daemon; only programs that do nothing else, such as the baseline, run it themselves.

    def transform(inputs, targets, seed):
        ...
        return inputs, targets

`inputs` and `targets` are tuples of CPU tensors, the samples first, as a source reads them: pixels
are uint8 where they come so. `seed` is an int for a batch to train on, the same whenever and
wherever it is made, and None for validation: all that is drawn must follow from it.
"""

from collections.abc import Callable
from importlib.metadata import entry_points

from torch import Tensor

from distqatd.base.errors import ComputeError, ConfigError
from distqatd.data.source import Raw

GROUP = "distqat.transforms"

Transform = Callable[[tuple[Tensor, ...], tuple[Tensor, ...], int | None], Raw]


def find_transform(name: str) -> Transform:
    """Return the function that an installed package offers under this name.

    Raises:
        ConfigError: there is none, or it cannot be imported.
    """
    found = [*entry_points(group=GROUP, name=name)]
    if not found:
        known = ", ".join(sorted(entry_points(group=GROUP).names)) or "none"
        raise ConfigError(
            f"data.transform {name!r} is not on this machine (known: {known})\nfix: install the "
            f"package that has an entry point {name!r} in {GROUP}"
        )
    try:
        function: Transform = found[0].load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"data.transform {name!r} is {found[0].value}, which cannot be imported: {error}"
        ) from error
    return function


def apply(transform: Transform, raw: Raw, seed: int | None) -> Raw:
    """Run the function and check what it gives.

    Raises:
        ComputeError: it failed, or gave something else than tensors of as many samples.
    """
    try:
        inputs, targets = transform(*raw, seed)
    except Exception as error:  # not ours to know what somebody else's function raises
        raise ComputeError(f"data.transform failed: {type(error).__name__}: {error}") from error
    made = tuple(inputs), tuple(targets)
    sizes = {len(tensor) for tensors in made for tensor in tensors}
    if sizes != {len(raw[0][0])}:
        raise ComputeError(
            f"data.transform was given {len(raw[0][0])} samples and returned {sorted(sizes)}"
        )
    return made
