"""What a state consists of when it travels: tensors as bytes, in chunks, each with its sha256.

Knows nothing of torch, so that a mirror, which computes nothing, can hold and serve states.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from distqatd.base.errors import RemoteProtocolError
from distqatd.wire.fields import need
from distqatd.wire.payload import Message, TensorSpec, WireTensor, spec_fault

CHUNK_BYTES = 4 << 20
"""Bytes in a chunk: one that was corrupt or cut off costs a third of a second at 100 Mbit/s."""

DIGEST_BYTES = 32
MAX_TENSORS = 64

COMMITTED: Final = "committed"
"""The parts that replicas have in common: what a joiner of a living stage needs."""

ALL: Final = "all"
"""The same and the inner optimizer's state: what a stage that stopped needs to go on exactly."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A range of bytes of one tensor."""

    tensor: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class StateBytes:
    """A state as bytes, as it is served and fetched. Immutable: nobody writes to `data`.

    Attributes:
        outer_step: number of outer steps committed.
        anchor_digest: sha256 in hex of the tensor `anchor`.
        layout_digest: tells whether it is of the same stage and model.
        meta: plain values that go with it.
        specs: the tensors, in name order.
        data: the bytes of each.
        made_of: the object whose bytes these are, if another; a donor hashes one object once.
    """

    outer_step: int
    anchor_digest: str
    layout_digest: str
    meta: Mapping[str, Any]
    specs: tuple[TensorSpec, ...]
    data: tuple[memoryview, ...]
    made_of: object = field(default=None, compare=False, repr=False)

    @property
    def origin(self) -> object:
        """Return the immutable object whose bytes these are."""
        return self if self.made_of is None else self.made_of

    def tensors(self) -> dict[str, WireTensor]:
        """Return the tensors by name."""
        pairs = zip(self.specs, self.data, strict=True)
        return {spec.name: WireTensor(spec, data) for spec, data in pairs}


@dataclass(frozen=True, slots=True)
class Manifest:
    """Describes one state completely; two replicas with the same state have the same one.

    Attributes:
        outer_step: as in the state.
        anchor_digest: as in the state.
        layout_digest: as in the state.
        meta: as in the state.
        specs: as in the state.
        digests: sha256 of every chunk, one after the other.
    """

    outer_step: int
    anchor_digest: str
    layout_digest: str
    meta: Mapping[str, Any]
    specs: tuple[TensorSpec, ...]
    digests: bytes

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """Return the chunks in order; none spans two tensors."""
        return chunks_of(self.specs)

    @property
    def num_bytes(self) -> int:
        """Return the bytes of all tensors."""
        return sum(spec.nbytes for spec in self.specs)

    @property
    def state_digest(self) -> str:
        """Return the sha256 in hex over all that must be equal in replicas of the same state."""
        lines = [f"{self.outer_step} {self.anchor_digest} {self.layout_digest}"]
        lines += [f"{s.name} {s.dtype} {'x'.join(map(str, s.shape))}" for s in self.specs]
        lines.append(json.dumps(self.meta, sort_keys=True, default=repr))
        return hashlib.sha256("\n".join(lines).encode() + self.digests).hexdigest()

    def digest_of(self, index: int) -> bytes:
        """Return the sha256 of chunk `index`."""
        return self.digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]

    def to_message(self) -> Message:
        """Return the message that `from_message` reads."""
        body = {
            "outer_step": self.outer_step,
            "anchor": self.anchor_digest,
            "layout": self.layout_digest,
            "meta": dict(self.meta),
            "tensors": [[s.name, s.dtype, list(s.shape), s.nbytes] for s in self.specs],
        }
        return Message(body, (bytes_tensor("digests", memoryview(self.digests)),))

    @classmethod
    def from_message(cls, message: Message, max_bytes: int) -> "Manifest":
        """Read and check what `to_message` wrote.

        Raises:
            RemoteProtocolError: it does not hold together, or describes more than `max_bytes`.
        """
        body = message.body
        specs = _read_specs(need(body, "tensors", list))
        num_bytes = sum(spec.nbytes for spec in specs)
        if num_bytes > max_bytes:
            raise RemoteProtocolError(f"a state of {num_bytes} bytes, at most {max_bytes} fit")
        if len(message.tensors) != 1:
            raise RemoteProtocolError("a manifest comes with one tensor of digests")
        digests = bytes(message.tensors[0].data)
        if len(digests) != len(chunks_of(specs)) * DIGEST_BYTES:
            raise RemoteProtocolError("a manifest has as many digests as chunks")
        return cls(
            need(body, "outer_step", int),
            need(body, "anchor", str),
            need(body, "layout", str),
            need(body, "meta", dict),
            specs,
            digests,
        )


def chunks_of(specs: Sequence[TensorSpec]) -> tuple[Chunk, ...]:
    """Return how tensors are cut into chunks."""
    return tuple(
        Chunk(tensor, start, min(start + CHUNK_BYTES, spec.nbytes))
        for tensor, spec in enumerate(specs)
        for start in range(0, spec.nbytes, CHUNK_BYTES)
    )


def bytes_of(data: Sequence[memoryview], chunk: Chunk) -> memoryview:
    """Return the bytes of a chunk, not copied."""
    return data[chunk.tensor][chunk.start : chunk.stop]


def bytes_tensor(name: str, data: memoryview) -> WireTensor:
    """Return bytes as a tensor that may travel, not copied."""
    return WireTensor(TensorSpec(name, "uint8", (data.nbytes,), data.nbytes), data)


def make_manifest(state: StateBytes, digests: bytes) -> Manifest:
    """Return the manifest of a state whose chunks have these digests."""
    return Manifest(
        state.outer_step,
        state.anchor_digest,
        state.layout_digest,
        state.meta,
        state.specs,
        digests,
    )


def _read_specs(rows: list[Any]) -> tuple[TensorSpec, ...]:
    if not 1 <= len(rows) <= MAX_TENSORS:
        raise RemoteProtocolError(f"a state of {len(rows)} tensors")
    specs = tuple(_read_spec(row) for row in rows)
    names = [spec.name for spec in specs]
    if names != sorted(set(names)):
        raise RemoteProtocolError("the tensors of a state are not in name order")
    return specs


def _read_spec(row: Any) -> TensorSpec:
    if not isinstance(row, list) or len(row) != 4:
        raise RemoteProtocolError("a tensor of a manifest is not a list of four")
    fields = dict(zip(("name", "dtype", "shape", "nbytes"), row, strict=True))
    shape = need(fields, "shape", list)
    if any(type(size) is not int for size in shape):
        raise RemoteProtocolError("a shape holds integers")
    spec = TensorSpec(
        need(fields, "name", str),
        need(fields, "dtype", str),
        tuple(shape),
        need(fields, "nbytes", int),
    )
    fault = spec_fault(spec)
    if fault is not None:
        raise RemoteProtocolError(f"tensor {spec.name!r} of a manifest: {fault}")
    return spec
