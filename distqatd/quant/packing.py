"""Integers of 2 to 8 bits as bytes without a gap: eight take as many bytes as one has bits.

The first is in the lowest bits; what is missing to eight is filled up with the lowest integer.
"""

import torch
from torch import Tensor

from distqatd.base.errors import CheckpointError
from distqatd.quant.levels import signed_range


def packed_bytes(num_codes: int, bits: int) -> int:
    """Return how many bytes so many integers take."""
    return -(-num_codes // 8) * bits


def pack(codes: Tensor, bits: int) -> Tensor:
    """Return integers, int8 of any shape, in order, as uint8 (packed_bytes,)."""
    low, _ = signed_range(bits)
    flat = codes.reshape(-1).to(torch.int16) - low
    flat = torch.nn.functional.pad(flat, (0, -flat.numel() % 8)).to(torch.uint8).view(-1, 8)
    # Bit b of every integer: (octets, 8, bits), then in the order of the bytes: (octets, bits, 8).
    places = torch.arange(bits, dtype=torch.uint8, device=codes.device)
    stream = ((flat.unsqueeze(-1) >> places) & 1).view(-1, bits, 8)
    weights = 2 ** torch.arange(8, dtype=torch.uint8, device=codes.device)
    return (stream * weights).sum(-1, dtype=torch.uint8).reshape(-1)


def unpack(packed: Tensor, bits: int, num_codes: int) -> Tensor:
    """Return the integers, int8 (num_codes,).

    Raises:
        CheckpointError: there are not exactly as many bytes as they take.
    """
    if packed.dtype != torch.uint8 or packed.numel() != packed_bytes(num_codes, bits):
        raise CheckpointError(
            f"{num_codes} integers of {bits} bits take {packed_bytes(num_codes, bits)} bytes, "
            f"not {packed.dtype} {list(packed.shape)}"
        )
    low, _ = signed_range(bits)
    places = torch.arange(8, dtype=torch.uint8, device=packed.device)
    stream = ((packed.reshape(-1, bits, 1) >> places) & 1).view(-1, 8, bits)
    weights = 2 ** torch.arange(bits, dtype=torch.int16, device=packed.device)
    codes = (stream * weights).sum(-1, dtype=torch.int16) + low
    return codes.reshape(-1)[:num_codes].to(torch.int8)
