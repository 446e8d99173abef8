"""ResNet-18, 50 and 101 with the names of transformers' `ResNetForImageClassification`.

[source: He et al., arXiv:1512.03385; the cifar stem, its section 4.2]

Shapes: B batch, C channels, H and W pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from distqatd.models.family import Cuts, Family, Options
from distqatd.models.units import Unit

_BOTTLENECK = 4
"""How many times narrower a bottleneck is inside than outside."""

Depths = tuple[int, int, int, int]
"""Blocks in each of the four groups."""


class ResNetOptions(Options):
    """Options of `resnet18`, `resnet50` and `resnet101`."""

    num_classes: int = Field(10, ge=1, description="classes to tell apart")
    num_channels: int = Field(3, ge=1, description="channels of an image")
    width: int = Field(
        64,
        ge=1,
        description="channels inside the blocks of the first of four groups; others double",
    )
    stem: Literal["cifar", "imagenet"] = Field(
        "imagenet", description="cifar keeps the size of small images, imagenet quarters it"
    )


class ConvLayer(nn.Module):
    """Convolution without bias, batch normalisation and, if asked for, a ReLU.

    Shapes: float (B, C, H, W) -> float (B, C', H / stride, W / stride).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, *, relu: bool
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False
        )
        self.normalization = nn.BatchNorm2d(out_channels)
        self.relu = relu
        nn.init.kaiming_normal_(self.convolution.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Run the layer."""
        values: Tensor = self.normalization(self.convolution(images))
        return values.relu() if self.relu else values


class Stem(nn.Module):
    """Turn pixels into channels: 7 x 7 and a pool by 2 (imagenet), or 3 x 3 (cifar)."""

    def __init__(self, options: ResNetOptions) -> None:
        super().__init__()
        small = options.stem == "cifar"
        kernel, stride = (3, 1) if small else (7, 2)
        self.embedder = ConvLayer(options.num_channels, options.width, kernel, stride, relu=True)
        self.pooler = nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Run the stem."""
        values: Tensor = self.pooler(self.embedder(images))
        return values


class Block(nn.Module):
    """Layers around which the input is carried, through a 1 x 1 layer where its shape changes."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, layers: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        same = in_channels == out_channels and stride == 1
        self.shortcut = (
            nn.Identity() if same else ConvLayer(in_channels, out_channels, 1, stride, relu=False)
        )
        self.layer = nn.Sequential(*layers)

    def forward(self, values: Tensor) -> Tensor:
        """Run the block."""
        return torch.relu(self.layer(values) + self.shortcut(values))


def basic(in_channels: int, out_channels: int, stride: int) -> Block:
    """Return a block of two 3 x 3 layers."""
    layers = (
        ConvLayer(in_channels, out_channels, 3, stride, relu=True),
        ConvLayer(out_channels, out_channels, 3, relu=False),
    )
    return Block(in_channels, out_channels, stride, layers)


def bottleneck(in_channels: int, out_channels: int, stride: int) -> Block:
    """Return a block of a 3 x 3 layer between two 1 x 1 layers that make it narrow."""
    inside = out_channels // _BOTTLENECK
    layers = (
        ConvLayer(in_channels, inside, 1, relu=True),
        ConvLayer(inside, inside, 3, stride, relu=True),
        ConvLayer(inside, out_channels, 1, relu=False),
    )
    return Block(in_channels, out_channels, stride, layers)


class Classifier(nn.Module):
    """Average over the image and classify: float (B, C, H, W) -> logits (B, num_classes)."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.pooler = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(channels, num_classes))

    def forward(self, values: Tensor) -> Tensor:
        """Run the classifier."""
        logits: Tensor = self.classifier(self.pooler(values))
        return logits


@dataclass(frozen=True, slots=True)
class Plan:
    """What tells one ResNet from another.

    Attributes:
        depths: blocks in each group.
        block: makes one, of channels in, channels out and stride.
        expansion: how many times wider a block is outside than inside.
    """

    depths: Depths
    block: Callable[[int, int, int], Block]
    expansion: int

    def units(self, options: ResNetOptions) -> tuple[Unit, ...]:
        """Return `stem`, `block0`, `block1`, ... and `classifier`."""
        widths = [options.width * self.expansion * 2**group for group in range(len(self.depths))]
        groups = enumerate(zip([options.width, *widths], widths, self.depths, strict=False))
        blocks = [
            self._block(group, layer, in_channels if layer == 0 else out_channels, out_channels)
            for group, (in_channels, out_channels, depth) in groups
            for layer in range(depth)
        ]
        return (
            Unit("stem", "resnet.embedder.", partial(Stem, options)),
            *blocks,
            Unit("classifier", "", partial(Classifier, widths[-1], options.num_classes)),
        )

    def cuts(self, _options: ResNetOptions) -> Cuts:
        """Return the cuts: half the blocks each, or one group | two | one."""
        return Cuts(
            half=1 + sum(self.depths) // 2, body=1 + self.depths[0], tail=1 + sum(self.depths[:3])
        )

    def _block(self, group: int, layer: int, in_channels: int, out_channels: int) -> Unit:
        stride = 2 if layer == 0 and group > 0 else 1
        return Unit(
            f"block{sum(self.depths[:group]) + layer}",
            f"resnet.encoder.stages.{group}.layers.{layer}.",
            partial(self.block, in_channels, out_channels, stride),
        )


_PLAN_18 = Plan((2, 2, 2, 2), basic, 1)
_PLAN_50 = Plan((3, 4, 6, 3), bottleneck, _BOTTLENECK)
_PLAN_101 = Plan((3, 4, 23, 3), bottleneck, _BOTTLENECK)

_RENAMES = (("resnet.", ""),)

RESNET18 = Family("resnet18", ResNetOptions, _PLAN_18.units, _PLAN_18.cuts, _RENAMES)
RESNET50 = Family("resnet50", ResNetOptions, _PLAN_50.units, _PLAN_50.cuts, _RENAMES)
RESNET101 = Family("resnet101", ResNetOptions, _PLAN_101.units, _PLAN_101.cuts, _RENAMES)
