"""ResNet-18 with the parameter names of transformers' `ResNetForImageClassification`.

[source: He et al., arXiv:1512.03385; the cifar stem, its section 4.2]

Shapes: B batch, C channels, H and W pixels.
"""

from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from distqatd.models.family import Cuts, Family, Options
from distqatd.models.units import Unit

_BLOCKS_PER_GROUP = 2
_GROUPS = 4


class ResNetOptions(Options):
    """Options of `resnet18`."""

    num_classes: int = Field(10, ge=1, description="classes to tell apart")
    num_channels: int = Field(3, ge=1, description="channels of an image")
    width: int = Field(64, ge=1, description="channels of the first of four groups; others double")
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
    """Two 3 x 3 layers around which the input is carried."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        same = in_channels == out_channels and stride == 1
        self.shortcut = (
            nn.Identity() if same else ConvLayer(in_channels, out_channels, 1, stride, relu=False)
        )
        self.layer = nn.Sequential(
            ConvLayer(in_channels, out_channels, 3, stride, relu=True),
            ConvLayer(out_channels, out_channels, 3, relu=False),
        )

    def forward(self, values: Tensor) -> Tensor:
        """Run the block."""
        return torch.relu(self.layer(values) + self.shortcut(values))


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


def resnet18_units(options: ResNetOptions) -> tuple[Unit, ...]:
    """Return `stem`, `block0` ... `block7` and `classifier`."""
    widths = [options.width * 2**group for group in range(_GROUPS)]
    blocks = [
        Unit(
            f"block{group * _BLOCKS_PER_GROUP + layer}",
            f"resnet.encoder.stages.{group}.layers.{layer}.",
            partial(
                Block,
                in_channels if layer == 0 else out_channels,
                out_channels,
                2 if layer == 0 and group > 0 else 1,
            ),
        )
        for group, (in_channels, out_channels) in enumerate(pairwise([widths[0], *widths]))
        for layer in range(_BLOCKS_PER_GROUP)
    ]
    return (
        Unit("stem", "resnet.embedder.", partial(Stem, options)),
        *blocks,
        Unit("classifier", "", partial(Classifier, widths[-1], options.num_classes)),
    )


def resnet18_cuts(_options: ResNetOptions) -> Cuts:
    """Return the cuts: two groups of blocks each, or one | two | one."""
    return Cuts(half=5, body=3, tail=7)


RESNET18 = Family("resnet18", ResNetOptions, resnet18_units, resnet18_cuts)
