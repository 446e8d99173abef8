"""Batches by number: batch b of a run is a pure function of (configuration, seed, b)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distqatd.base.errors import ConfigError
from distqatd.base.rng import stable_seed
from distqatd.config.sections import DataConfig
from distqatd.data.catalog import open_splits
from distqatd.data.collate import Collate, make_collate
from distqatd.data.order import Int64s, Split, shuffled
from distqatd.data.source import Raw
from distqatd.data.transforms import Transform, apply, find_transform
from distqatd.data.trial import HasTrial, Trial


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


@dataclass(frozen=True, slots=True)
class Finish:
    """The last touch: from what a source reads to a batch. Reads nothing.

    Attributes:
        collate: makes inputs and targets.
        name: keys what is drawn for validation.
        seed: keys what is drawn for training.
        batch_size: samples in a batch.
    """

    collate: Collate
    name: str
    seed: int
    batch_size: int

    @classmethod
    def of(cls, config: DataConfig, seed: int, batch_size: int) -> "Finish":
        """Return what finishes the batches of the data set that `config` names."""
        return cls(make_collate(config), config.dataset_name, seed, batch_size)

    def training(self, raw: Raw, number: int) -> Batch:
        """Return training batch `number`, given what it is made of."""
        return self.drawn(raw, stable_seed(self.seed, "batch", number))

    def validation(self, raw: Raw, index: int) -> Batch:
        """Return validation batch `index`, given what it is made of."""
        return self.drawn(raw, stable_seed(self.name, "validation", index * self.batch_size))

    def drawn(self, raw: Raw, seed: int) -> Batch:
        """Return a batch whose random parts follow from `seed`."""
        inputs, targets = self.collate(raw, seed)
        return Batch(inputs, targets, len(inputs[0]))


class Dataset:
    """Training batches by number, and the samples kept for validation.

    The samples of an epoch are shuffled, all together or, from a stream, within a window; those
    that do not fill a batch are left out of that epoch. Which samples are kept for validation
    depends on the data set alone, not on the seed, so that runs with several seeds can be
    compared. Validation is never divided among trainers: whoever evaluates reads all of it.

    Attributes:
        num_samples: samples to train on.
        num_validation_samples: samples kept for validation.
        num_classes: targets are below it; a model needs as many outputs.
        batch_size: samples in a batch.
        batches_per_epoch: batches until every training sample has been drawn once.
        num_validation_batches: batches of the samples kept; the last one may be smaller.
    """

    def __init__(
        self,
        training: Split,
        validation: Split,
        finish: Finish,
        *,
        window: int | None = None,
        transform: Transform | None = None,
    ) -> None:
        """Put batches of the two splits together.

        Args:
            training: what is trained on.
            validation: what is kept for validation.
            finish: makes a batch of what the sources read; its seed keys the order, too.
            window: samples that are shuffled together; None: all.
            transform: comes between source and `finish`.

        Raises:
            ConfigError: there are too few samples for one batch or for validation.
        """
        self._training = training
        self._validation = validation
        self._finish = finish
        self._seed = finish.seed
        self._window = window
        self._transform = transform
        self.batch_size = finish.batch_size
        self.num_samples = training.num_samples
        self.num_validation_samples = validation.num_samples
        self.num_classes = training.source.num_classes
        self.batches_per_epoch = self.num_samples // self.batch_size
        self.num_validation_batches = -(-self.num_validation_samples // self.batch_size)
        if not self.batches_per_epoch or not self.num_validation_samples:
            raise ConfigError(
                f"data set {finish.name!r} has {self.num_samples} training and "
                f"{self.num_validation_samples} validation samples, too few for batches of "
                f"{self.batch_size}; lower diloco.batch_size_per_step or use more data"
            )

    def batch(self, number: int) -> Batch:
        """Return training batch `number` of the run, from 0; epochs follow one another."""
        return self._finish.training(self.read(number), number)

    def read(self, number: int) -> Raw:
        """Read what training batch `number` is made of; pixels are uint8 where they come so."""
        epoch, index = divmod(number, self.batches_per_epoch)
        positions = np.arange(index * self.batch_size, (index + 1) * self.batch_size)
        key = (self._seed, "epoch", epoch)
        places = shuffled(positions, self.num_samples, self._window, *key)
        return self._read(self._training, places, stable_seed(self._seed, "transform", number))

    def read_validation(self, index: int) -> Raw:
        """Read what validation batch `index` is made of."""
        start = index * self.batch_size
        places = np.arange(start, min(start + self.batch_size, self.num_validation_samples))
        return self._read(self._validation, places, None)

    def validation_batches(self) -> Iterator[Batch]:
        """Yield every validation sample once, in a fixed order; the last batch may be smaller."""
        for index in range(self.num_validation_batches):
            yield self._finish.validation(self.read_validation(index), index)

    def trial(self) -> Trial | None:
        """Return a fresh trial of the model in its environment, where the data set has one."""
        source = self._validation.source
        return source.trial() if isinstance(source, HasTrial) else None

    def sample_inputs(
        self, batch_size: int, device: torch.device | str = "meta"
    ) -> tuple[Tensor, ...]:
        """Return zeros of the dtype and shape of the inputs of a batch of `batch_size`."""
        raw = self._read(self._training, np.zeros(1, dtype=np.int64), None)
        batch = self._finish.drawn(raw, 0)
        return tuple(
            torch.zeros((batch_size, *tensor.shape[1:]), dtype=tensor.dtype, device=device)
            for tensor in batch.inputs
        )

    def _read(self, split: Split, places: Int64s, seed: int | None) -> Raw:
        raw = split.source.read(torch.from_numpy(split.numbers(places)))
        return raw if self._transform is None else apply(self._transform, raw, seed)


def open_dataset(config: DataConfig, seed: int, batch_size: int) -> Dataset:
    """Open the data set that `config` names; its batches go through `config.transform`.

    Args:
        config: the data section.
        seed: the run's seed, which decides the order of training samples.
        batch_size: samples in a batch.

    Raises:
        ConfigError: no such data set, file or transform, or it does not fit the section.
    """
    training, validation = open_splits(config)
    return Dataset(
        training,
        validation,
        Finish.of(config, seed, batch_size),
        window=config.shuffle_buffer if config.streaming else None,
        transform=None if config.transform is None else find_transform(config.transform),
    )
