"""How flat fp32 vectors travel: what is sent instead, and what that costs in precision."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from distqatd.base.errors import ConfigError


class Codec(Protocol):
    """Turns flat fp32 into what is sent, and back.

    Decoding is deterministic: all receivers of the same bytes get the same bits, and a sender that
    decodes its own encoding gets them too.
    """

    @property
    def name(self) -> str:
        """Return the name in the configuration."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of encoded tensors; they are flat, one element per value."""
        ...

    @property
    def error_bound(self) -> float:
        """Return the largest |decoded - value| / |value| for normal, not overflowing values."""
        ...

    def encode(self, flat: Tensor) -> Tensor:
        """Return the encoding of flat fp32; shares memory when nothing has to change."""
        ...

    def decode(self, encoded: Tensor) -> Tensor:
        """Return flat fp32; shares memory when nothing has to change."""
        ...


@dataclass(frozen=True, slots=True)
class CastCodec:
    """A plain cast, rounding to nearest, ties to even. Values beyond the dtype become infinite."""

    name: str
    dtype: torch.dtype
    error_bound: float

    def encode(self, flat: Tensor) -> Tensor:
        """Return `flat` in the codec's dtype, contiguous."""
        return flat.to(self.dtype).contiguous()

    def decode(self, encoded: Tensor) -> Tensor:
        """Return `encoded` as float32."""
        return encoded.to(torch.float32)


CODECS: dict[str, Codec] = {
    "fp32": CastCodec("fp32", torch.float32, 0.0),
    # 8 bits of significand: half a unit in the last place is 2^-8 of the value at most.
    "bf16": CastCodec("bf16", torch.bfloat16, 2.0**-8),
}
"""Codecs by `diloco.codec`."""


def codec(name: str) -> Codec:
    """Return the codec called `name`.

    Raises:
        ConfigError: it is not one of CODECS.
    """
    if name not in CODECS:
        raise ConfigError(f"diloco.codec {name!r} is unknown; use one of {', '.join(CODECS)}")
    return CODECS[name]
