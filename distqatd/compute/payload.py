"""Tensors to and from wire memory, without a copy where the memory allows it.

The wire is little-endian, as is every machine torch is built for today.
"""

import math

import torch
from torch import Tensor

from distqatd.base.errors import LocalProtocolError, RemoteProtocolError
from distqatd.wire.payload import DTYPES, TensorSpec, WireTensor

_TORCH: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPES}
_NAMES = {dtype: name for name, dtype in _TORCH.items()}


def to_wire(name: str, tensor: Tensor) -> WireTensor:
    """Return `tensor` as bytes; shares memory with a contiguous CPU tensor: do not write to it.

    Raises:
        LocalProtocolError: its dtype may not travel.
    """
    dtype = _NAMES.get(tensor.dtype)
    if dtype is None:
        raise LocalProtocolError(f"tensor {name!r} is {tensor.dtype}, which may not travel")
    host = tensor.detach().cpu().contiguous()
    spec = TensorSpec(name, dtype, tuple(host.shape), host.nbytes)
    return WireTensor(spec, _memory(host))


def from_wire(wire: WireTensor) -> Tensor:
    """Return a CPU tensor over the bytes of `wire`; copies only what is read-only.

    Raises:
        RemoteProtocolError: bytes, shape and dtype do not fit together, or a codec is not undone.
    """
    spec, data = wire.spec, wire.data
    dtype = _TORCH.get(spec.dtype)
    expected = math.prod(spec.shape) * DTYPES.get(spec.dtype, 0)
    if dtype is None or spec.codec != "raw" or data.nbytes != expected:
        raise RemoteProtocolError(
            f"tensor {spec.name!r}: {data.nbytes} bytes do not hold {spec.codec} {spec.dtype}"
            f"{list(spec.shape)}"
        )
    if not expected:
        return torch.empty(spec.shape, dtype=dtype)
    # Torch has no read-only tensors: a write to one would change the sender's bytes object.
    buffer = bytearray(data) if data.readonly else data
    return torch.frombuffer(buffer, dtype=dtype).view(spec.shape)


def torch_sink(spec: TensorSpec) -> memoryview:
    """Return uninitialised memory to receive `spec` into; `from_wire` makes it a tensor as it is.

    Unlike a bytearray it is not zeroed first, which would cost more than the socket.
    """
    return _memory(torch.empty(spec.nbytes, dtype=torch.uint8))


def _memory(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous CPU tensor; the view keeps its memory alive."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data
