"""Synthetic recordings of ten "words": the tone pairs of a telephone's digits, under noise.

They stand in for recordings where none are at hand; a folder of wav files takes their place, see
`local`. Sample i is a function of i alone. [source: tone frequencies, ITU-T Q.23]
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distqatd.base.errors import ConfigError
from distqatd.config.sections import DataConfig
from distqatd.data.numbers import normal, uniform
from distqatd.data.source import Raw

_LOW_HZ = (941, 697, 697, 697, 770, 770, 770, 852, 852, 852)
_HIGH_HZ = (1336, 1209, 1336, 1477, 1209, 1336, 1477, 1209, 1336, 1477)
_NUM_SAMPLES = 2000
_SHORTEST = 0.5
"""Share of a recording that is sound, at least."""

_DETUNED = 0.015
_NOISE = 0.1
_LOUDEST = 0.5

Floats = npt.NDArray[np.float64]


class Spoken:
    """A `Source` of audio float32 (S,), zeros at its end, sound lengths, and labels in [0, 10).

    Pitch varies by a few per cent, and loudness, phase and length with it.
    """

    num_classes = len(_LOW_HZ)

    def __init__(self, num_samples: int, length: int, sampling_rate: int) -> None:
        self.num_samples = num_samples
        self._length = length
        self._seconds = np.arange(length) / sampling_rate

    def read(self, numbers: Tensor) -> Raw:
        """Return audio (B, S) with lengths int64 (B,), and labels int64 (B,)."""
        samples = numbers.numpy()
        labels = samples % self.num_classes
        draws = uniform(samples, 6, "spoken")
        lengths = np.ceil((_SHORTEST + (1 - _SHORTEST) * draws[:, 0]) * self._length)
        loud = _LOUDEST * (0.5 + 0.5 * draws[:, 1:2])
        low = self._tone(np.take(_LOW_HZ, labels), draws[:, 2], draws[:, 3])
        high = self._tone(np.take(_HIGH_HZ, labels), draws[:, 4], draws[:, 5])
        noise = _NOISE * normal(samples, self._length, "spoken", "noise")
        audio = loud * (low + high) + noise
        audio[np.arange(self._length) >= lengths[:, None]] = 0
        inputs = (torch.from_numpy(audio).float(), torch.from_numpy(lengths.astype(np.int64)))
        return inputs, (torch.from_numpy(labels),)

    def _tone(self, hertz: npt.NDArray[np.int64], detune: Floats, phase: Floats) -> Floats:
        pitch = hertz * (1 + _DETUNED * (2 * detune - 1))
        waves: Floats = np.sin(2 * np.pi * (pitch[:, None] * self._seconds + phase[:, None]))
        return waves


def open_spoken(config: DataConfig) -> Spoken:
    """Return synthetic recordings of the length and rate that the section asks for.

    Raises:
        ConfigError: the task is not speech, or the tones are above half the sampling rate.
    """
    if config.task_type != "speech":
        raise ConfigError(f"data.task_type is {config.task_type!r}; spoken needs 'speech'")
    if config.sampling_rate <= 2 * (1 + _DETUNED) * max(_HIGH_HZ):
        raise ConfigError(
            f"data.sampling_rate {config.sampling_rate} is too low for tones of "
            f"{max(_HIGH_HZ)} Hz; use 8000 or more"
        )
    return Spoken(config.num_samples or _NUM_SAMPLES, config.audio_samples, config.sampling_rate)
