"""Images of rows: files, their bytes, or lists of pixels.

Pillow is imported where an image is decoded.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from distqatd.base.errors import ConfigError
from distqatd.data.columns import Labels
from distqatd.data.rows import Row
from distqatd.data.source import Raw

MAX_PIXELS = 1 << 26
"""Pixels of an image at most; a small file can hold a picture that fills the memory."""

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class ImageDecoder:
    """Makes pixels and labels of rows; see `rows.Decoder`.

    Pixels are uint8 (C, S, S); images of another size are resized. Lists of numbers are taken as
    they are, float32, in the order channel, row, column.
    """

    def __init__(
        self, column: str, target: str | None, labels: Labels, num_channels: int, size: int
    ) -> None:
        """Take the columns, and the shape of images.

        Args:
            column: of the image.
            target: column of the label; None: no targets.
            labels: what the labels mean.
            num_channels: C: 1 (grey), 3 (colours) or 4.
            size: S, height and width.
        """
        self._column = column
        self._target = target
        self._labels = labels
        self._shape = (num_channels, size, size)
        self.num_classes = labels.num_classes if target is not None else num_channels

    def decode(self, rows: Sequence[Row]) -> Raw:
        """Return pixels (B, C, S, S), and labels int64 (B,)."""
        pixels = torch.stack([self._pixels(row[self._column]) for row in rows])
        if self._target is None:
            return (pixels,), ()
        labels = [self._labels.number(row[self._target]) for row in rows]
        return (pixels,), (torch.tensor(labels),)

    def _pixels(self, value: Any) -> Tensor:
        if isinstance(value, list):
            return _listed(value, self._shape)
        channels, size, _ = self._shape
        if channels not in _MODES:
            raise ConfigError(f"data.num_channels {channels}: images have 1, 3 or 4")
        image = _open(value).convert(_MODES[channels])
        if image.size != (size, size):
            image = image.resize((size, size))
        flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        return flat.view(size, size, channels).permute(2, 0, 1).contiguous()


def _listed(value: list[Any], shape: tuple[int, int, int]) -> Tensor:
    pixels = torch.tensor(value, dtype=torch.float32)
    if pixels.numel() != torch.Size(shape).numel():
        raise ConfigError(
            f"an image has {pixels.numel()} numbers, not {shape[0]} x {shape[1]} x {shape[2]}; "
            "set data.num_channels and data.img_size to what it has"
        )
    return pixels.view(shape)


def _open(value: Any) -> Any:
    """Return a picture of Pillow's.

    Raises:
        ConfigError: it cannot be read.
    """
    library = _library()
    if isinstance(value, library.Image):
        return value
    try:
        image = library.open(value if isinstance(value, Path) else io.BytesIO(_bytes(value)))
        if image.width * image.height > MAX_PIXELS:
            raise ConfigError(f"an image has {image.width} x {image.height} pixels, too many")
        image.load()
    except (OSError, SyntaxError, library.DecompressionBombError) as error:
        raise ConfigError(f"an image cannot be read: {error}") from error
    return image


def _bytes(value: Any) -> bytes:
    """Return a file's bytes, as they are or as Hugging Face tables hold them."""
    found = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(found, bytes):
        raise ConfigError(f"an image is {type(value).__name__}, not a file, bytes or list")
    return found


def _library() -> ModuleType:
    try:
        from PIL import Image
    except ImportError as error:
        raise ConfigError("images need a package; install it with: pip install pillow") from error
    return Image
