"""The forward process of a diffusion model: from an image to noise in T steps.

[source: Ho, Jain and Abbeel, Denoising Diffusion Probabilistic Models, arXiv:2006.11239, eq. 4]
"""

import torch
from torch import Tensor


def noise_schedule(num_steps: int, beta_start: float, beta_end: float) -> Tensor:
    """Return what is left of the image's variance after each step, float64 (T,), falling.

    The noise added per step grows linearly from `beta_start` to `beta_end`.
    """
    betas = torch.linspace(beta_start, beta_end, num_steps, dtype=torch.float64)
    return torch.cumprod(1 - betas, dim=0)


def add_noise(images: Tensor, noise: Tensor, left: Tensor) -> Tensor:
    """Return noisy images, float32 (B, C, H, W).

    Args:
        images: float32 (B, C, H, W), in [-1, 1].
        noise: of the same shape, standard normal.
        left: of the image's variance in each sample, float64 (B,), see `noise_schedule`.
    """
    keep = left.sqrt().float().view(-1, 1, 1, 1)
    add = (1 - left).sqrt().float().view(-1, 1, 1, 1)
    return keep * images + add * noise
