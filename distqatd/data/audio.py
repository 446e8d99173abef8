"""Recordings of rows: PCM wav files, or their bytes."""

import io
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distqatd.base.errors import ConfigError
from distqatd.data.columns import Labels
from distqatd.data.rows import Row
from distqatd.data.source import IGNORED, Raw

Floats = npt.NDArray[np.float32]

_MAX_SECONDS = 3600


class AudioDecoder:
    """Makes audio and labels, or transcripts, of rows; see `rows.Decoder`.

    Audio is float32 (S,) in [-1, 1], one channel, cut or padded with zeros at its end.
    """

    def __init__(
        self,
        column: str,
        target: str,
        labels: Labels | str,
        sampling_rate: int,
        length: int,
    ) -> None:
        """Take the columns, and the shape of recordings.

        Args:
            column: of the recording.
            target: column of the label or transcript.
            labels: what the labels mean; an alphabet for transcripts.
            sampling_rate: samples in a second; recordings of another rate are resampled.
            length: S.
        """
        self._column = column
        self._target = target
        self._labels = labels
        self._sampling_rate = sampling_rate
        self._length = length
        self.num_classes = len(labels) + 1 if isinstance(labels, str) else labels.num_classes

    def decode(self, rows: Sequence[Row]) -> Raw:
        """Return audio (B, S) with lengths int64 (B,), and targets int64 (B,) or (B, L)."""
        audio = torch.zeros(len(rows), self._length)
        lengths = torch.zeros(len(rows), dtype=torch.int64)
        for place, row in enumerate(rows):
            sound, rate = read_wav(row[self._column])
            sound = resample(sound, rate, self._sampling_rate)[: self._length]
            audio[place, : len(sound)] = torch.from_numpy(sound)
            lengths[place] = len(sound)
        targets = [row[self._target] for row in rows]
        if isinstance(self._labels, str):
            return (audio, lengths), (spell(targets, self._labels),)
        return (audio, lengths), (torch.tensor([self._labels.number(t) for t in targets]),)


def spell(texts: Sequence[Any], alphabet: str) -> torch.Tensor:
    """Return transcripts as numbers, int64 (B, L): the place in the alphabet, from 1.

    0 is CTC's blank. Case is that of the alphabet where it has only one; characters it lacks are
    left out. Shorter transcripts are padded with IGNORED.
    """
    places = {character: place for place, character in enumerate(alphabet, start=1)}
    if alphabet == alphabet.lower():
        texts = [str(text).lower() for text in texts]
    elif alphabet == alphabet.upper():
        texts = [str(text).upper() for text in texts]
    spelled = [[places[c] for c in str(text) if c in places] for text in texts]
    targets = torch.full((len(texts), max(1, *map(len, spelled))), IGNORED)
    for row, numbers in enumerate(spelled):
        targets[row, : len(numbers)] = torch.tensor(numbers, dtype=torch.int64)
    return targets


def read_wav(value: Any) -> tuple[Floats, int]:
    """Return a recording, float32 (N,) in [-1, 1], the mean of its channels, and its rate.

    Args:
        value: path of a PCM wav file, its bytes, or a Hugging Face row with either.

    Raises:
        ConfigError: it is nothing of that.
    """
    if isinstance(value, dict):
        value = value.get("bytes") or Path(str(value.get("path")))
    try:
        content = value if isinstance(value, bytes) else Path(value).read_bytes()
        with wave.open(io.BytesIO(content)) as file:
            frames = file.readframes(file.getframerate() * _MAX_SECONDS)
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
    except (OSError, wave.Error, EOFError, TypeError) as error:
        name = value if isinstance(value, Path) else "a recording"
        raise ConfigError(
            f"{name} cannot be read: {error}; recordings must be PCM wav files, for example from: "
            "ffmpeg -i IN -c:a pcm_s16le OUT.wav"
        ) from error
    sound = _samples(frames, width).reshape(-1, channels).mean(axis=1, dtype=np.float32)
    return sound, rate


def resample(sound: Floats, rate: int, wanted: int) -> Floats:
    """Return `sound` at another rate; frequencies that it cannot hold are left out."""
    length = round(len(sound) * wanted / rate)
    if rate == wanted or not length:
        return sound[:length]
    spectrum = np.fft.rfft(sound)[: length // 2 + 1]
    resampled: Floats = np.fft.irfft(spectrum, length).astype(np.float32)
    return resampled * np.float32(length / len(sound))


def _samples(frames: bytes, width: int) -> Floats:
    """Return little-endian PCM of 1 to 4 bytes a sample as floats; 1 byte is unsigned."""
    if width == 1:
        return (np.frombuffer(frames, np.uint8).astype(np.float32) - 128) / np.float32(128)
    raw = np.frombuffer(frames, np.uint8).reshape(-1, width)
    wide = np.zeros((len(raw), 4), np.uint8)
    wide[:, 4 - width :] = raw  # in the upper bytes, so that the sign is right
    samples: Floats = wide.view("<i4").ravel().astype(np.float32)
    return samples / np.float32(1 << 31)
