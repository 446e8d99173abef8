"""Images as one PNG file, written by hand: it takes less than asking for an imaging library.

[source: PNG specification, third edition, W3C 2025: signature, IHDR, IDAT, IEND; filter type 0]
"""

import math
import struct
import zlib

import torch
from torch import Tensor

from distqatd.base.errors import ConfigError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KINDS = {1: 0, 3: 2}
"""Colour type by channels: grey, and red, green and blue."""

_GAP = 1
"""Pixels between images."""


def png_grid(images: Tensor, zoom: int = 1) -> bytes:
    """Return a grid of images, as square as it gets, row by row, as the bytes of a PNG file.

    Args:
        images: uint8 (B, C, H, W); C is 1 or 3.
        zoom: pixels of the file for a pixel of an image, each way.

    Raises:
        ConfigError: images of so many channels have no colours.
    """
    num, channels, height, width = images.shape
    if channels not in _KINDS:
        raise ConfigError(f"images of {channels} channels cannot be shown; 1 and 3 can")
    columns = math.ceil(math.sqrt(num))
    rows = math.ceil(num / columns)
    high, wide = height + _GAP, width + _GAP
    grid = torch.zeros((rows * high - _GAP, columns * wide - _GAP, channels), dtype=torch.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * high, index % columns * wide
        grid[top : top + height, left : left + width] = image.permute(1, 2, 0)
    return _png(grid.repeat_interleave(zoom, 0).repeat_interleave(zoom, 1))


def _png(pixels: Tensor) -> bytes:
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _KINDS[channels], 0, 0, 0)
    lines = b"".join(b"\0" + line.contiguous().numpy().tobytes() for line in pixels)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")
    return _SIGNATURE + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
