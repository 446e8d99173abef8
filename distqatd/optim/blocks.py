"""Block-wise integers: int8 and int4 with one scale per block of consecutive values.

A scale is a bfloat16: then `levels * scale` is exact in float32, the peak of a block stays its
peak, an encoding of a decoding is the same bytes, and a scale costs 2 bytes. Layout: the scales of
all blocks, then the values; two int4 share a byte, the first half of them in the low nibbles.

Shapes: N values, B per block, K = ceil(N / B) blocks.
"""
# ruff: noqa: N803, N806  names end in the letters of their shape

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from distqatd.base.errors import RemoteProtocolError

_SMALLEST_PEAK = 2.0**-100
"""Blocks whose largest value is below this are sent as zeros: their scale could not be."""

_LARGEST_FLOAT = 3.4028234663852886e38
_SCALE_BYTES = 2
_SCALE_ROUNDING = 1 + 2.0**-8
"""A bfloat16 is larger than what it stands for by this factor at most."""


@dataclass(frozen=True, slots=True)
class BlockCodec:
    """Integers of `bits` bits from -levels to levels, times the scale of their block.

    Attributes:
        bits: 8 or 4.
        block_size: values that share a scale, a multiple of 2.
    """

    name: str
    bits: int
    block_size: int
    dtype: torch.dtype = torch.uint8

    @property
    def levels(self) -> int:
        """Return the largest integer: 127 or 7."""
        return (1 << (self.bits - 1)) - 1

    def num_bytes(self, num_values: int) -> int:
        """Return the length of an encoding."""
        num_blocks = -(-num_values // self.block_size)
        return num_blocks * _SCALE_BYTES + (num_values * self.bits + 7) // 8

    def bound(self, flat_N: Tensor) -> Tensor:
        """Return the largest |decoded - value| of each value, float64 (N,).

        Half a step of its block; a whole step where the block's peak is above 2^126.
        """
        peaks_K1 = self._blocks(flat_N.double().abs()).amax(1, keepdim=True)
        steps_K1 = peaks_K1 / self.levels * _SCALE_ROUNDING
        share_K1 = torch.where(peaks_K1 > 2.0**126, 1.0, 0.5)
        bounds_K1 = torch.where(peaks_K1 < _SMALLEST_PEAK, peaks_K1, steps_K1 * share_K1)
        # 2^-22: the division and the multiplication round, too.
        bounds_KB = (bounds_K1 + peaks_K1 * 2.0**-22).expand(-1, self.block_size)
        return bounds_KB.reshape(-1)[: flat_N.numel()]

    @torch.no_grad()
    def encode(self, flat_N: Tensor) -> Tensor:
        """Return the encoding, uint8 (num_bytes(N),); values must be finite."""
        values_KB = self._blocks(flat_N)
        scales_K1 = _scales(values_KB, self.levels)
        steps_KB = values_KB / scales_K1
        whole_KB = steps_KB.round_().clamp_(-self.levels, self.levels).to(torch.int8)
        whole_N = whole_KB.reshape(-1)[: flat_N.numel()]
        scales = scales_K1.reshape(-1).to(torch.bfloat16).view(torch.uint8)
        packed = whole_N.view(torch.uint8) if self.bits == 8 else _pack(whole_N)
        return torch.cat((scales, packed))

    @torch.no_grad()
    def decode(self, encoded: Tensor, num_values: int) -> Tensor:
        """Return float32 (N,).

        Raises:
            RemoteProtocolError: not an encoding of `num_values` values.
        """
        if encoded.dtype != torch.uint8 or encoded.shape != (self.num_bytes(num_values),):
            raise RemoteProtocolError(
                f"{self.name} of {num_values} values has {self.num_bytes(num_values)} bytes, "
                f"not {encoded.dtype} {list(encoded.shape)}"
            )
        num_blocks = -(-num_values // self.block_size)
        split = num_blocks * _SCALE_BYTES
        # A copy: a view as bfloat16 needs an even address.
        scales_K = encoded[:split].clone().view(torch.bfloat16).float()
        packed = encoded[split:]
        whole_N = packed.view(torch.int8) if self.bits == 8 else _unpack(packed, num_values)
        return (self._blocks(whole_N.float()) * scales_K[:, None]).reshape(-1)[:num_values]

    def _blocks(self, flat_N: Tensor) -> Tensor:
        """Return the values as (K, B), the last block filled up with zeros."""
        missing = -flat_N.numel() % self.block_size
        padded = F.pad(flat_N, (0, missing)) if missing else flat_N
        return padded.reshape(-1, self.block_size)


def _scales(values_KB: Tensor, levels: int) -> Tensor:
    """Return the scale of each block, float32 (K, 1), representable as bfloat16, never 0."""
    # amax of both signs is an order of magnitude faster than aminmax over a dimension.
    peaks_K1 = torch.maximum(
        values_KB.amax(1, keepdim=True), values_KB.amin(1, keepdim=True).neg_()
    )
    wanted_K1 = peaks_K1.clamp_min_(_SMALLEST_PEAK) / levels
    return wanted_K1.to(torch.bfloat16).float().clamp_max_(_largest_scale(levels))


def _largest_scale(levels: int) -> float:
    """Return the largest bfloat16 whose product with `levels` is finite."""
    bits = torch.tensor(_LARGEST_FLOAT / levels).view(torch.int32) & -0x10000
    return float(bits.view(torch.float32))


def _pack(whole_N: Tensor) -> Tensor:
    """Return two's complement nibbles, uint8 (ceil(N / 2),)."""
    # In halves, not neighbours: every operation is on contiguous memory.
    padded = F.pad(whole_N, (0, whole_N.numel() % 2)).view(torch.uint8)
    low, high = padded.chunk(2) if padded.numel() else (padded, padded)
    return (low & 15) | (high << 4)


def _unpack(packed: Tensor, num_values: int) -> Tensor:
    """Return int8 (N,) from nibbles."""
    signed = packed.view(torch.int8)
    # Shifting left and back again, arithmetically, extends the sign.
    return torch.cat(((signed << 4) >> 4, signed >> 4))[:num_values]
