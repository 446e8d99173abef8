"""How the values of a chunk travel: encoded, and compressed where that makes them smaller.

N = values of a chunk.
"""
# ruff: noqa: N803  names end in the letters of their shape

from dataclasses import dataclass

import torch
from torch import Tensor

from distqatd.base.errors import RemoteProtocolError
from distqatd.compute.payload import from_wire, to_wire, torch_sink
from distqatd.optim.codecs import Codec, codec
from distqatd.wire.compression import compress, decompress
from distqatd.wire.payload import TensorSpec, WireTensor

ZSTD = "zstd"


@dataclass(frozen=True, slots=True)
class Packing:
    """Values to wire tensors and back; both may take milliseconds unless `is_free`.

    Attributes:
        codec: what values become.
        compressed: whether zstd is tried on that.
    """

    codec: Codec
    compressed: bool = False

    @property
    def is_free(self) -> bool:
        """Return whether packing neither copies nor computes."""
        return self.codec.dtype == torch.float32 and not self.compressed

    @property
    def is_lossy(self) -> bool:
        """Return whether values do not come back as they were."""
        return self.codec.dtype != torch.float32

    def pack(self, name: str, values_N: Tensor, rest_N: Tensor | None = None) -> WireTensor:
        """Return values as they travel.

        Args:
            name: of the wire tensor.
            values_N: float32, CPU; memory may be shared.
            rest_N: set to what the receiver will be short of; None does not compute it.
        """
        encoded = self.codec.encode(values_N)
        if rest_N is not None:
            torch.sub(values_N, self.codec.decode(encoded, values_N.numel()), out=rest_N)
        return self.travelling(name, encoded)

    def travelling(self, name: str, encoded: Tensor) -> WireTensor:
        """Return an encoding as it travels; compressed only if that is shorter."""
        plain = to_wire(name, encoded)
        if not self.compressed:
            return plain
        packed = compress(to_wire(name, _planes(encoded)).data)
        if len(packed) >= plain.spec.nbytes:
            return plain
        spec = TensorSpec(name, "uint8", (len(packed),), len(packed), ZSTD)
        return WireTensor(spec, memoryview(packed))

    def unpack(self, tensor: WireTensor, num_values: int) -> Tensor:
        """Return float32 (num_values,); shares memory with the tensor where it can.

        Raises:
            RemoteProtocolError: these are not `num_values` values of this codec.
        """
        if tensor.spec.codec != ZSTD:
            return self.codec.decode(from_wire(tensor), num_values)
        raw = bytearray(decompress(tensor.data, self.codec.num_bytes(num_values)))
        if not raw:
            raise RemoteProtocolError("a compressed tensor of nothing")
        size = self.codec.dtype.itemsize
        planes = torch.frombuffer(raw, dtype=torch.uint8).view(size, -1)
        encoded = planes.t().contiguous().reshape(-1).view(self.codec.dtype)
        return self.codec.decode(encoded, num_values)


EXACT = Packing(codec("fp32"))
"""For what must not be rounded, such as running statistics, whatever the codec of the run."""


def _planes(encoded: Tensor) -> Tensor:
    """Return the first bytes of all values, then the second bytes, ...: exponents are alike."""
    size = encoded.dtype.itemsize
    return encoded.view(torch.uint8).view(-1, size).t().contiguous().reshape(-1)


def destination(spec: TensorSpec, target: Tensor) -> memoryview:
    """Receive an fp32 mean straight into its place, anything else into fresh memory.

    Raises:
        RemoteProtocolError: it is longer than the values themselves.
    """
    if spec.dtype == "float32" and spec.shape == tuple(target.shape):
        return to_wire("mean", target).data
    if spec.nbytes > target.nbytes:
        raise RemoteProtocolError(f"a mean of {spec.nbytes} bytes for {target.numel()} values")
    return torch_sink(spec)
