"""From what a source reads to what a model takes: float pixels, normalised, noised.

Sources leave pixels as uint8, a quarter of the bytes to hand from process to process.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from distqatd.config.sections import DataConfig
from distqatd.data.diffusion import add_noise, noise_schedule
from distqatd.data.source import Raw

_WHITE = 255.0


class Collate(Protocol):
    """Turns raw tensors of a batch into its inputs and targets. Pure."""

    def __call__(self, raw: Raw, seed: int) -> Raw:
        """Return inputs and targets, float32 or int64; `seed` is for what is drawn at random."""
        ...


@dataclass(frozen=True, slots=True)
class Plain:
    """Pixels become floats, normalised; everything else stays as it is.

    Attributes:
        mean: subtracted from inputs of images (B, C, H, W) in [0, 1]; empty: nothing is.
        std: divides the rest.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, raw: Raw, seed: int) -> Raw:
        """Return the batch; nothing is drawn."""
        inputs, targets = raw
        return tuple(self._normalise(tensor) for tensor in inputs), targets

    def _normalise(self, tensor: Tensor) -> Tensor:
        if tensor.dtype == torch.uint8:
            tensor = tensor.to(torch.float32) / _WHITE
        if not self.mean or tensor.dim() != 4:
            return tensor
        return (tensor - _by_channel(self.mean)) / _by_channel(self.std)


@dataclass(frozen=True, slots=True)
class Noised:
    """Images (B, C, H, W) become noisy images and time steps; the noise is what is predicted.

    Attributes:
        pixels: normalises the images, into [-1, 1] for the theory to hold.
        schedule: float64 (T,), see `noise_schedule`.
    """

    pixels: Plain
    schedule: Tensor

    def __call__(self, raw: Raw, seed: int) -> Raw:
        """Return (noisy images, time steps (B,)) and (noise,); both are drawn from `seed`."""
        (images, *_), _ = self.pixels(raw, seed)
        generator = torch.Generator().manual_seed(seed)
        steps = torch.randint(len(self.schedule), (len(images),), generator=generator)
        noise = torch.randn(images.shape, generator=generator)
        return (add_noise(images, noise, self.schedule[steps]), steps), (noise,)


def make_collate(config: DataConfig) -> Collate:
    """Return how batches of the section's task are made."""
    plain = Plain(config.mean, config.std)
    if config.task_type != "image_gen":
        return plain
    return Noised(plain, noise_schedule(config.noise_steps, config.beta_start, config.beta_end))


def _by_channel(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
