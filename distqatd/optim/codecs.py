"""How flat fp32 vectors travel: what is sent instead, and what that costs in precision."""
# ruff: noqa: N803  names end in the letters of their shape

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from distqatd.base.errors import ConfigError, RemoteProtocolError
from distqatd.optim.blocks import BlockCodec

DEFAULT_BLOCK_SIZE = {"int8": 1024, "int4": 256}
"""Values that share a scale, where the configuration does not say."""


class Codec(Protocol):
    """Turns flat fp32 into what is sent, and back; on any device.

    Decoding is deterministic: all receivers of the same bytes get the same bits, and a sender that
    decodes its own encoding gets them too. Encoding a decoding gives the same bytes.
    """

    @property
    def name(self) -> str:
        """Return the name in the configuration."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of encodings; they are flat."""
        ...

    def num_bytes(self, num_values: int) -> int:
        """Return the length of an encoding, bytes."""
        ...

    def bound(self, flat_N: Tensor) -> Tensor:
        """Return the largest |decoded - value| for each finite value, float64 (N,)."""
        ...

    def encode(self, flat_N: Tensor) -> Tensor:
        """Return the encoding of flat fp32; shares memory when nothing has to change."""
        ...

    def decode(self, encoded: Tensor, num_values: int) -> Tensor:
        """Return flat fp32 (N,); shares memory when nothing has to change.

        Raises:
            RemoteProtocolError: not an encoding of `num_values` values.
        """
        ...


@dataclass(frozen=True, slots=True)
class CastCodec:
    """A plain cast, rounding to nearest, ties to even; what is too large becomes the largest.

    Attributes:
        relative_error: of normal values.
        smallest_error: absolute error of values that are subnormal in `dtype`.
    """

    name: str
    dtype: torch.dtype
    relative_error: float = 0.0
    smallest_error: float = 0.0

    @property
    def largest(self) -> float:
        """Return the largest finite value of the dtype."""
        return torch.finfo(self.dtype).max

    def num_bytes(self, num_values: int) -> int:
        """Return the length of an encoding."""
        return num_values * self.dtype.itemsize

    def bound(self, flat_N: Tensor) -> Tensor:
        """Return the largest |decoded - value| of each value, float64 (N,)."""
        sizes = flat_N.double().abs()
        rounding = sizes * self.relative_error + self.smallest_error
        return torch.maximum(rounding, sizes - self.largest)

    def encode(self, flat_N: Tensor) -> Tensor:
        """Return `flat_N` in the codec's dtype, contiguous."""
        if self.dtype == torch.float32:
            return flat_N.contiguous()
        return flat_N.clamp(-self.largest, self.largest).to(self.dtype).contiguous()

    def decode(self, encoded: Tensor, num_values: int) -> Tensor:
        """Return `encoded` as float32.

        Raises:
            RemoteProtocolError: another dtype or length.
        """
        if encoded.dtype != self.dtype or encoded.shape != (num_values,):
            raise RemoteProtocolError(
                f"{self.name} of {num_values} values came as {encoded.dtype} {list(encoded.shape)}"
            )
        return encoded.to(torch.float32)


CASTS: dict[str, Codec] = {
    "fp32": CastCodec("fp32", torch.float32),
    # n bits of significand: half a unit in the last place is 2^-n of the value at most.
    "fp16": CastCodec("fp16", torch.float16, 2.0**-11, 2.0**-25),
    "bf16": CastCodec("bf16", torch.bfloat16, 2.0**-8, 2.0**-134),
}
CODEC_NAMES = ("fp32", "fp16", "bf16", "int8", "int4")
"""What `diloco.codec` and `quant.wire` may be."""


def codec(name: str, block_size: int | None = None) -> Codec:
    """Return the codec called `name`.

    Args:
        name: one of CODEC_NAMES.
        block_size: of int8 and int4, values; None for DEFAULT_BLOCK_SIZE.

    Raises:
        ConfigError: there is no such codec, or the block size is not a positive even number.
    """
    if name in CASTS:
        return CASTS[name]
    if name not in DEFAULT_BLOCK_SIZE:
        raise ConfigError(f"codec {name!r} is unknown; use one of {', '.join(CODEC_NAMES)}")
    size = DEFAULT_BLOCK_SIZE[name] if block_size is None else block_size
    if size < 2 or size % 2:
        raise ConfigError(f"{name} cannot have blocks of {size} values; use an even number")
    return BlockCodec(name, int(name.removeprefix("int")), size)
