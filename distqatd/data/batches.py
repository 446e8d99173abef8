"""Batches by number: batch b of a run is a pure function of (configuration, seed, b)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distqatd.base.errors import ConfigError
from distqatd.config.sections import DataConfig
from distqatd.data.digits import open_digits
from distqatd.data.permutation import permute
from distqatd.data.source import Source
from distqatd.data.text import open_python_sources, open_text_file

SOURCES: dict[str, Callable[[DataConfig], Source]] = {
    "digits": open_digits,
    "python_sources": open_python_sources,
}
"""Data sets by name; a `dataset_name` that is not among them is the path of a local file."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of one inner step, or of one microbatch of it.

    Attributes:
        inputs: what the first stage takes; CPU, float32 or int64, samples first.
        targets: what the loss compares with; CPU, samples first.
        num_samples: length of all first dimensions.
    """

    inputs: tuple[Tensor, ...]
    targets: tuple[Tensor, ...]
    num_samples: int

    def split(self, parts: int) -> tuple["Batch", ...]:
        """Cut into `parts` microbatches, in order, whose sizes differ by one at most; views.

        Raises:
            ConfigError: there are fewer samples than parts.
        """
        if not 1 <= parts <= self.num_samples:
            raise ConfigError(
                f"cannot split {self.num_samples} samples into {parts} microbatches; lower "
                "diloco.num_microbatches or raise diloco.batch_size_per_step"
            )
        inputs = zip(*(tensor.tensor_split(parts) for tensor in self.inputs), strict=True)
        targets = zip(*(tensor.tensor_split(parts) for tensor in self.targets), strict=True)
        return tuple(
            Batch(tuple(some), tuple(wanted), len(some[0]))
            for some, wanted in zip(inputs, targets, strict=True)
        )


class Dataset:
    """Training batches by number, and the samples kept for validation.

    The samples of an epoch are a keyed permutation of the training samples; those that do not
    fill a batch are left out of that epoch. Which samples are kept for validation depends on the
    data set alone, not on the seed, so that runs with several seeds can be compared.

    Attributes:
        num_samples: samples to train on.
        num_validation_samples: samples kept for validation.
        num_classes: targets are below it; a model needs as many outputs.
        batch_size: samples in a batch.
        batches_per_epoch: batches until every training sample has been drawn once.
    """

    def __init__(
        self, source: Source, *, name: str, seed: int, batch_size: int, validation_fraction: float
    ) -> None:
        """Split `source`; `name` keys the split.

        Raises:
            ConfigError: there are too few samples for one batch or for validation.
        """
        self._source = source
        self._name = name
        self._seed = seed
        self.batch_size = batch_size
        self.num_validation_samples = round(source.num_samples * validation_fraction)
        self.num_samples = source.num_samples - self.num_validation_samples
        self.num_classes = source.num_classes
        self.batches_per_epoch = self.num_samples // batch_size
        if not self.batches_per_epoch or not self.num_validation_samples:
            raise ConfigError(
                f"data set {name!r} has {self.num_samples} training and "
                f"{self.num_validation_samples} validation samples, too few for batches of "
                f"{batch_size}; lower diloco.batch_size_per_step or use more data"
            )

    def batch(self, number: int) -> Batch:
        """Return training batch `number` of the run, from 0; epochs follow one another."""
        epoch, index = divmod(number, self.batches_per_epoch)
        positions = np.arange(index * self.batch_size, (index + 1) * self.batch_size)
        order = permute(positions, self.num_samples, self._seed, "epoch", epoch)
        return self._read(order + self.num_validation_samples)

    def validation_batches(self) -> Iterator[Batch]:
        """Yield every validation sample once, in a fixed order; the last batch may be smaller."""
        for start in range(0, self.num_validation_samples, self.batch_size):
            stop = min(start + self.batch_size, self.num_validation_samples)
            yield self._read(np.arange(start, stop))

    def sample_inputs(
        self, batch_size: int, device: torch.device | str = "meta"
    ) -> tuple[Tensor, ...]:
        """Return zeros of the dtype and shape of the inputs of a batch of `batch_size`."""
        inputs, _ = self._source.read(torch.zeros(1, dtype=torch.int64))
        return tuple(
            torch.zeros((batch_size, *tensor.shape[1:]), dtype=tensor.dtype, device=device)
            for tensor in inputs
        )

    def _read(self, places: np.typing.NDArray[np.int64]) -> Batch:
        """Read samples by their place in the fixed order: validation first, then training."""
        total = self.num_validation_samples + self.num_samples
        numbers = permute(places, total, self._name, "split")
        inputs, targets = self._source.read(torch.from_numpy(numbers))
        return Batch(inputs, targets, len(numbers))


def open_dataset(config: DataConfig, seed: int, batch_size: int) -> Dataset:
    """Open the data set that `config` names.

    Reads it into memory: a few megabytes at most, see `DataConfig.max_bytes`.

    Args:
        config: the data section.
        seed: the run's seed, which decides the order of training samples.
        batch_size: samples in a batch.

    Raises:
        ConfigError: no such data set or file, or it does not fit the section.
    """
    source = _opener(config.dataset_name)(config)
    return Dataset(
        source,
        name=config.dataset_name,
        seed=seed,
        batch_size=batch_size,
        validation_fraction=config.validation_fraction,
    )


def _opener(name: str) -> Callable[[DataConfig], Source]:
    if name in SOURCES:
        return SOURCES[name]
    if not Path(name).expanduser().is_file():
        raise ConfigError(
            f"data.dataset_name {name!r} is neither one of {', '.join(sorted(SOURCES))} nor a "
            "file on this machine"
        )
    return open_text_file
