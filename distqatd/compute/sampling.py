"""Images from a trained diffusion model: from noise to an image in T steps.

[source: Ho, Jain and Abbeel, Denoising Diffusion Probabilistic Models, arXiv:2006.11239,
algorithm 2, with the mean of eq. 7 from the image that the noise implies]

Shapes: B images, C channels, H height, W width, T time steps.
"""
# ruff: noqa: N803, N806  names end in the letters of their shape

import torch
from torch import Tensor, nn

from distqatd.base.errors import ConfigError
from distqatd.config.sections import DataConfig
from distqatd.data.diffusion import noise_schedule

MAX_IMAGES = 4096
_WHITE = 255.0


@torch.no_grad()
def sample_images(model: nn.Module, config: DataConfig, num_images: int, seed: int) -> Tensor:
    """Return images drawn from a model, uint8 (B, C, H, W), on the CPU.

    The same seed gives the same images from the same model on the same machine. Every step the
    image that the predicted noise implies is kept within what pixels can be.

    Args:
        model: in eval mode; takes noisy images and time steps, gives (noise,).
        config: of the run that trained it.
        num_images: B.
        seed: of all that is drawn.

    Raises:
        ConfigError: the run is not one of image generation, or B is not within 1 and MAX_IMAGES.
    """
    if config.task_type != "image_gen":
        raise ConfigError(f"a model of task_type {config.task_type} makes no images")
    if not 1 <= num_images <= MAX_IMAGES:
        raise ConfigError(f"{num_images} images are not within 1 and {MAX_IMAGES}")
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    left_T = noise_schedule(config.noise_steps, config.beta_start, config.beta_end)
    low, high = _bounds(config)
    shape = (num_images, config.num_channels, config.img_size, config.img_size)
    images_BCHW = torch.randn(shape, generator=generator)
    for step in reversed(range(config.noise_steps)):
        steps_B = torch.full((num_images,), step, device=device)
        (noise_BCHW,) = model(images_BCHW.to(device), steps_B)
        mean_BCHW, deviation = _posterior(
            images_BCHW, noise_BCHW.float().cpu(), step, left_T, (low, high)
        )
        drawn_BCHW = torch.randn(shape, generator=generator)
        images_BCHW = mean_BCHW + deviation * drawn_BCHW
    pixels_BCHW = (images_BCHW - low) / (high - low) * _WHITE
    return pixels_BCHW.round().clamp(0, _WHITE).to(torch.uint8)


def _posterior(
    images_BCHW: Tensor,
    noise_BCHW: Tensor,
    step: int,
    left_T: Tensor,
    bounds: tuple[Tensor, Tensor],
) -> tuple[Tensor, float]:
    """Return mean and deviation of the images one step before, the last one without any."""
    left = left_T[step].item()
    before = left_T[step - 1].item() if step else 1.0
    kept, added = left / before, 1.0 - left / before
    implied_BCHW = (images_BCHW - (1 - left) ** 0.5 * noise_BCHW) / left**0.5
    implied_BCHW = implied_BCHW.clamp(*bounds)
    weights = before**0.5 * added / (1 - left), kept**0.5 * (1 - before) / (1 - left)
    mean_BCHW = weights[0] * implied_BCHW + weights[1] * images_BCHW
    return mean_BCHW, ((1 - before) / (1 - left) * added) ** 0.5


def _bounds(config: DataConfig) -> tuple[Tensor, Tensor]:
    """Return what black and white are as the model sees them, each (1, C, 1, 1)."""
    mean, std = (
        torch.tensor(values or (empty,), dtype=torch.float32).view(1, -1, 1, 1)
        for values, empty in ((config.mean, 0.0), (config.std, 1.0))
    )
    return (0.0 - mean) / std, (1.0 - mean) / std
