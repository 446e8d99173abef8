"""The 1797 handwritten digits that come with scikit-learn, 8 x 8 pixels.

The file is read directly: importing scikit-learn would cost two seconds and 150 MB per process.
"""

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distqatd.base.errors import ConfigError
from distqatd.config.sections import DataConfig

_FILE = Path("datasets", "data", "digits.csv.gz")
_SIDE = 8
_DARKEST = 16.0
_NUM_LABELS = 10
_TASKS = ("cv", "image_gen")


class Digits:
    """A `Source` of images float32 (1, 8, 8) in [0, 1] and labels int64 in [0, 10)."""

    def __init__(self, images: Tensor, labels: Tensor, num_classes: int) -> None:
        self._images = images
        self._labels = labels
        self.num_classes = num_classes

    @property
    def num_samples(self) -> int:
        """Return how many images there are."""
        return len(self._labels)

    def read(self, numbers: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return images (B, 1, 8, 8) and labels (B,)."""
        return (self._images[numbers],), (self._labels[numbers],)


def open_digits(config: DataConfig) -> Digits:
    """Read the digits from the installed scikit-learn.

    Raises:
        ConfigError: scikit-learn is not installed, or the data section asks for another shape.
    """
    if (config.num_channels, config.img_size) != (1, _SIDE):
        raise ConfigError(
            "data: digits are 1 x 8 x 8 pixels; set data.num_channels to 1 and data.img_size to 8 "
            f"instead of {config.num_channels} and {config.img_size}"
        )
    if config.task_type not in _TASKS:
        raise ConfigError(
            f"data.task_type is {config.task_type!r}; digits need 'cv', or 'image_gen'"
        )
    with gzip.open(_package_folder("sklearn") / _FILE, "rt", encoding="ascii") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    pixels = torch.from_numpy(table[:, :-1]).to(torch.float32) / _DARKEST
    images = pixels.reshape(-1, 1, _SIDE, _SIDE)
    outputs = _NUM_LABELS if config.task_type == "cv" else config.num_channels
    return Digits(images, torch.from_numpy(table[:, -1].copy()), outputs)


def _package_folder(name: str) -> Path:
    """Find an installed package without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "data.dataset_name 'digits' needs scikit-learn; install it with: "
            "pip install scikit-learn"
        )
    return Path(spec.submodule_search_locations[0])
