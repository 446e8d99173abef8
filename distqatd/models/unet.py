"""A UNet that predicts the noise in an image, with the names of diffusers' `UNet2DModel`.

What the way down makes is kept for the way up, so a cut sends several tensors. On the way down
they are (time, kept...), and the newest kept one is what the next unit works on; on the way up
they are (values, time, kept...), and each unit takes from the end.

[source: Ho et al., Denoising Diffusion Probabilistic Models, arXiv:2006.11239, appendix B]

Shapes: B batch, C channels, H and W pixels, E width of the time embedding.
"""

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from distqatd.config.section import Float
from distqatd.models.family import Cuts, Family, Options
from distqatd.models.units import Unit

_EPSILON = 1e-5
_TIME_FACTOR = 4
_LONGEST_PERIOD = 10000.0


class UnetOptions(Options):
    """Options of `unet`."""

    num_channels: int = Field(1, ge=1, description="channels of an image")
    block_channels: tuple[Annotated[int, Field(ge=2)], ...] = Field(
        (32, 64), min_length=1, description="channels of each level; each halves height and width"
    )
    layers_per_block: int = Field(1, ge=1, description="residual layers of a level on its way down")
    norm_groups: int = Field(8, ge=1, description="groups of each normalisation; divides channels")
    attention_from: int = Field(
        1, ge=0, description="first level whose pixels look at one another; 0 has all pixels"
    )
    head_size: int = Field(8, ge=1, description="channels of an attention head; divides channels")
    dropout: Float = Field(0.0, ge=0, lt=1, description="inside the residual layers")

    @model_validator(mode="after")
    def _channels_divide(self) -> "UnetOptions":
        for channels in self.block_channels:
            if channels % self.norm_groups or channels % self.head_size or channels % 2:
                raise ValueError(
                    f"block_channels has {channels}, which 2, norm_groups {self.norm_groups} and "
                    f"head_size {self.head_size} must divide"
                )
        return self

    @property
    def time_width(self) -> int:
        """Return E."""
        return _TIME_FACTOR * self.block_channels[0]

    def attends(self, level: int) -> bool:
        """Return whether blocks of `level` have attention."""
        return level >= self.attention_from


class TimeEmbedding(nn.Module):
    """Time steps as vectors: int64 (B,) -> float (B, E)."""

    def __init__(self, options: UnetOptions) -> None:
        super().__init__()
        self.num_waves = options.block_channels[0] // 2
        self.linear_1 = nn.Linear(2 * self.num_waves, options.time_width)
        self.linear_2 = nn.Linear(options.time_width, options.time_width)

    def forward(self, steps: Tensor) -> Tensor:
        """Embed by cosines and sines of falling frequency and two linear maps."""
        numbers = torch.arange(self.num_waves, device=steps.device) / self.num_waves
        angles = steps.unsqueeze(1) * torch.exp(-math.log(_LONGEST_PERIOD) * numbers)
        waves = torch.cat([angles.cos(), angles.sin()], dim=1)
        embedded: Tensor = self.linear_2(functional.silu(self.linear_1(waves)))
        return embedded


class ResidualLayer(nn.Module):
    """Two convolutions around which the input is carried; the time is added between."""

    def __init__(self, options: UnetOptions, in_channels: int, out_channels: int) -> None:
        super().__init__()
        groups = options.norm_groups
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=_EPSILON)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(options.time_width, out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=_EPSILON)
        self.dropout = nn.Dropout(options.dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, values: Tensor, time: Tensor) -> Tensor:
        """Run the layer: float (B, C, H, W) and (B, E) -> float (B, C', H, W)."""
        hidden = self.conv1(functional.silu(self.norm1(values)))
        hidden = hidden + self.time_emb_proj(functional.silu(time))[:, :, None, None]
        hidden = self.conv2(self.dropout(functional.silu(self.norm2(hidden))))
        carried = self.conv_shortcut(values) if hasattr(self, "conv_shortcut") else values
        added: Tensor = carried + hidden
        return added


class PixelAttention(nn.Module):
    """Attention of all pixels to one another, added to the input: float (B, C, H, W) -> same."""

    def __init__(self, options: UnetOptions, channels: int) -> None:
        super().__init__()
        self.num_heads = channels // options.head_size
        self.group_norm = nn.GroupNorm(options.norm_groups, channels, eps=_EPSILON)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, values: Tensor) -> Tensor:
        """Run the attention."""
        batch = values.shape[0]
        pixels = self.group_norm(values).flatten(2).transpose(1, 2)  # (B, H * W, C)
        query, key, value = (
            project(pixels).view(batch, -1, self.num_heads, pixels.shape[2] // self.num_heads)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        mixed = functional.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        )
        merged: Tensor = self.to_out[0](mixed.transpose(1, 2).reshape(pixels.shape))
        return values + merged.transpose(1, 2).reshape(values.shape)


class Resampler(nn.Module):
    """The convolution that halves height and width, or that follows after they are doubled."""

    def __init__(self, channels: int, *, up: bool) -> None:
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(channels, channels, 3, stride=1 if up else 2, padding=1)

    def forward(self, values: Tensor) -> Tensor:
        """Resample: float (B, C, H, W) -> float (B, C, H', W')."""
        if self.up:
            values = functional.interpolate(values, scale_factor=2.0, mode="nearest")
        resampled: Tensor = self.conv(values)
        return resampled


class Stem(nn.Module):
    """Noisy images (B, C, H, W) and time steps int64 (B,) -> (time, first kept values)."""

    def __init__(self, options: UnetOptions) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(options.num_channels, options.block_channels[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(options)

    def forward(self, images: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Embed both."""
        return self.time_embedding(steps), self.conv_in(images)


class Level(nn.Module):
    """Residual layers of one resolution, each with attention behind it if the level has any."""

    def __init__(
        self,
        options: UnetOptions,
        channels: Sequence[tuple[int, int]],
        *,
        attend: bool,
    ) -> None:
        """Build for `channels`, those into and out of each residual layer."""
        super().__init__()
        self.resnets = nn.ModuleList(ResidualLayer(options, *pair) for pair in channels)
        self.attend = attend
        if attend:
            self.attentions = nn.ModuleList(PixelAttention(options, out) for _, out in channels)

    def run(self, index: int, values: Tensor, time: Tensor) -> Tensor:
        """Run layer `index`."""
        result: Tensor = self.resnets[index](values, time)
        if self.attend:
            result = self.attentions[index](result)
        return result


class Down(Level):
    """One level of the way down; keeps every layer's result: (time, kept...) -> the same, more."""

    def __init__(self, options: UnetOptions, level: int) -> None:
        channels = options.block_channels
        sizes = [channels[max(level - 1, 0)]] + [channels[level]] * options.layers_per_block
        super().__init__(options, list(pairwise(sizes)), attend=options.attends(level))
        if level < len(channels) - 1:
            self.downsamplers = nn.ModuleList([Resampler(channels[level], up=False)])

    def forward(self, time: Tensor, *kept: Tensor) -> tuple[Tensor, ...]:
        """Run the level."""
        for index in range(len(self.resnets)):
            kept = (*kept, self.run(index, kept[-1], time))
        if hasattr(self, "downsamplers"):
            kept = (*kept, self.downsamplers[0](kept[-1]))
        return time, *kept


class Middle(nn.Module):
    """The turn: (time, kept...) -> (values, time, kept...)."""

    def __init__(self, options: UnetOptions) -> None:
        super().__init__()
        channels = options.block_channels[-1]
        self.resnets = nn.ModuleList(ResidualLayer(options, channels, channels) for _ in range(2))
        self.attentions = nn.ModuleList([PixelAttention(options, channels)])

    def forward(self, time: Tensor, *kept: Tensor) -> tuple[Tensor, ...]:
        """Run the turn."""
        values = self.attentions[0](self.resnets[0](kept[-1], time))
        return self.resnets[1](values, time), time, *kept


class Up(Level):
    """One level of the way up; joins what was kept: (values, time, kept...) -> the same, less."""

    def __init__(self, options: UnetOptions, level: int) -> None:
        channels = options.block_channels
        here, below = channels[level], channels[min(level + 1, len(channels) - 1)]
        above = channels[max(level - 1, 0)]
        kept = [here] * options.layers_per_block + [above]
        come = [below] + [here] * options.layers_per_block
        pairs = [(into + beside, here) for into, beside in zip(come, kept, strict=True)]
        super().__init__(options, pairs, attend=options.attends(level))
        if level > 0:
            self.upsamplers = nn.ModuleList([Resampler(here, up=True)])

    def forward(self, values: Tensor, time: Tensor, *kept: Tensor) -> tuple[Tensor, ...]:
        """Run the level."""
        for index in range(len(self.resnets)):
            values = self.run(index, torch.cat([values, kept[-1]], dim=1), time)
            kept = kept[:-1]
        if hasattr(self, "upsamplers"):
            values = self.upsamplers[0](values)
        return values, time, *kept


class Output(nn.Module):
    """Values and time -> the predicted noise, float (B, C, H, W) like the image."""

    def __init__(self, options: UnetOptions) -> None:
        super().__init__()
        channels = options.block_channels[0]
        self.conv_norm_out = nn.GroupNorm(options.norm_groups, channels, eps=_EPSILON)
        self.conv_out = nn.Conv2d(channels, options.num_channels, 3, padding=1)

    def forward(self, values: Tensor, _time: Tensor) -> Tensor:
        """Predict."""
        noise: Tensor = self.conv_out(functional.silu(self.conv_norm_out(values)))
        return noise


def unet_units(options: UnetOptions) -> tuple[Unit, ...]:
    """Return `stem`, `down0` ..., `middle`, `up0` ... and `output`; `up0` is the smallest."""
    levels = range(len(options.block_channels))
    downs = [Unit(f"down{i}", f"down_blocks.{i}.", partial(Down, options, i)) for i in levels]
    ups = [
        Unit(f"up{i}", f"up_blocks.{i}.", partial(Up, options, len(levels) - 1 - i)) for i in levels
    ]
    return (
        Unit("stem", "", partial(Stem, options)),
        *downs,
        Unit("middle", "mid_block.", partial(Middle, options)),
        *ups,
        Unit("output", "", partial(Output, options)),
    )


def unet_cuts(options: UnetOptions) -> Cuts:
    """Return the cuts: the way down | the rest, or the way down | the turn | the way up."""
    levels = len(options.block_channels)
    return Cuts(half=1 + levels, body=1 + levels, tail=2 + levels)


UNET = Family("unet", UnetOptions, unet_units, unet_cuts)
