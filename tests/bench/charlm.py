"""The task of `bench diloco`: a character GPT of 62,000 parameters, and its data by number.

B = sequences, L = characters in one, C = channels, V = characters there are.
"""
# ruff: noqa: N803, N806  names end in the letters of their shape

import math
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from distqatd.data.text import read_files

LAYERS, HEADS, CHANNELS, LENGTH = 2, 4, 48, 64
BATCH = 4
"""Sequences in one inner step of one replica."""

TEXT_BYTES = 1_115_394
"""Read of Python's sources where no other text is given: as much as tiny-shakespeare has."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text as numbers of its characters; the last tenth is for validation.

    Attributes:
        name: where it came from.
        training: int64.
        validation: int64.
        num_chars: characters there are.
    """

    name: str
    training: Tensor
    validation: Tensor
    num_chars: int

    def batch(self, seed: int, step: int, worker: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets (B, L) of a step: a function of its arguments alone."""
        generator = torch.Generator().manual_seed((seed * 1_000_003 + step) * 64 + worker)
        starts = torch.randint(len(self.training) - LENGTH - 1, (BATCH,), generator=generator)
        rows_BL = [self.training[start : start + LENGTH + 1] for start in starts]
        whole = torch.stack(rows_BL)
        return whole[:, :-1].contiguous(), whole[:, 1:].contiguous()

    def validation_loss(self, logits: Callable[[Tensor], Tensor], most: int | None = None) -> float:
        """Return the mean loss, nats a character, over consecutive windows, `most` of them."""
        count = (len(self.validation) - 1) // LENGTH
        count = count if most is None else min(most, count)
        inputs = self.validation[: count * LENGTH].view(count, LENGTH)
        targets = self.validation[1 : count * LENGTH + 1].view(count, LENGTH)
        total = 0.0
        with torch.no_grad():
            for some, wanted in zip(inputs.split(128), targets.split(128), strict=True):
                total += loss_of(logits(some), wanted).item() * len(some)
        return total / count


def open_text(path: Path | None) -> Text:
    """Read a text: of a file, or of the sources of this Python."""
    if path is not None:
        return _text(path.name, path.read_text("utf-8"))
    folder = Path(sysconfig.get_path("stdlib"))
    data = read_files(sorted(folder.glob("*.py")), TEXT_BYTES)
    return _text("python sources", data.decode("ascii", errors="ignore"))


def _text(name: str, text: str) -> Text:
    chars = {char: number for number, char in enumerate(sorted(set(text)))}
    values = torch.tensor([chars[char] for char in text], dtype=torch.long)
    cut = int(0.9 * len(values))
    return Text(name, values[:cut], values[cut:], len(chars))


def loss_of(logits_BLV: Tensor, targets_BL: Tensor) -> Tensor:
    """Return the mean cross entropy."""
    return functional.cross_entropy(logits_BLV.flatten(0, 1), targets_BL.flatten())


class CharGpt(nn.Module):
    """Pre-norm blocks with RMS norms and no biases; the output layer is the embedding."""

    def __init__(self, num_chars: int) -> None:
        super().__init__()
        self.wte = nn.Parameter(torch.empty(num_chars, CHANNELS))
        self.wpe = nn.Parameter(torch.empty(LENGTH, CHANNELS))
        self.blocks = nn.ModuleList(_Block() for _ in range(LAYERS))
        self.norm = nn.Parameter(torch.ones(CHANNELS))

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Return logits (B, L, V)."""
        hidden_BLC = self.wte[tokens_BL] + self.wpe[: tokens_BL.shape[1]]
        for block in self.blocks:
            hidden_BLC = block(hidden_BLC)
        return _rms(hidden_BLC, self.norm) @ self.wte.T

    @torch.no_grad()
    def seed(self, seed: int) -> None:
        """Draw the weights: 0.02, and less for what is added to the residual stream."""
        generator = torch.Generator().manual_seed(seed)
        small = 0.02 / math.sqrt(2 * LAYERS)
        _draw(self.wte, 0.02, generator)
        _draw(self.wpe, 0.02, generator)
        for block in self.blocks:
            _draw(block.qkv, 0.02, generator)
            _draw(block.out, small, generator)
            _draw(block.up, 0.02, generator)
            _draw(block.down, small, generator)


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.Parameter(torch.ones(CHANNELS))
        self.qkv = nn.Parameter(torch.empty(CHANNELS, 3 * CHANNELS))
        self.out = nn.Parameter(torch.empty(CHANNELS, CHANNELS))
        self.norm2 = nn.Parameter(torch.ones(CHANNELS))
        self.up = nn.Parameter(torch.empty(CHANNELS, 4 * CHANNELS))
        self.down = nn.Parameter(torch.empty(4 * CHANNELS, CHANNELS))

    def forward(self, hidden_BLC: Tensor) -> Tensor:
        B, L, C = hidden_BLC.shape
        packed = (_rms(hidden_BLC, self.norm1) @ self.qkv).view(B, L, 3, HEADS, C // HEADS)
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden_BLC = hidden_BLC + mixed.transpose(1, 2).reshape(B, L, C) @ self.out
        wide = functional.gelu(_rms(hidden_BLC, self.norm2) @ self.up, approximate="tanh")
        return hidden_BLC + wide @ self.down


def _rms(hidden: Tensor, weight_C: Tensor) -> Tensor:
    return hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + 1e-6) * weight_C


def _draw(weight: Tensor, std: float, generator: torch.Generator) -> None:
    weight.copy_(torch.randn(weight.shape, generator=generator) * std)
