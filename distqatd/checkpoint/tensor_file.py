"""Safetensors files, written and read piece by piece: a state need not fit into memory.

The `safetensors` library writes a file only from tensors that are all in memory. The mirror gets
a state in chunks, in any order, so the header is made here and chunks are put where they belong.
Files are the library's own format, which tests check with the library.

[source: https://github.com/huggingface/safetensors, "Format"]
"""

import json
import math
import mmap
import os
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distqatd.base.errors import CheckpointError
from distqatd.wire.payload import DTYPES, TensorSpec

MAX_HEADER_BYTES = 1 << 20
"""A header of ours has a few kilobytes; a larger one was not written here."""

_PIECE_BYTES = 1 << 20
_LENGTH = struct.Struct("<Q")
_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


@dataclass(frozen=True, slots=True)
class TensorLayout:
    """Where the tensors of a file lie.

    Attributes:
        specs: the tensors in the order in which they lie.
        offsets: byte in the file at which each begins.
        num_bytes: of the whole file.
        metadata: texts that the header holds besides.
    """

    specs: tuple[TensorSpec, ...]
    offsets: tuple[int, ...]
    num_bytes: int
    metadata: Mapping[str, str]


def make_header(
    specs: Sequence[TensorSpec], metadata: Mapping[str, str]
) -> tuple[bytes, TensorLayout]:
    """Return the first bytes of a file that will hold these tensors, and where they will lie."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for spec in specs:
        entries[spec.name] = {
            "dtype": _NAMES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [at, at + spec.nbytes],
        }
        at += spec.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8, as the format wants it
    header = _LENGTH.pack(len(text)) + text
    return header, _layout(specs, len(header), metadata)


def _layout(specs: Sequence[TensorSpec], begin: int, metadata: Mapping[str, str]) -> TensorLayout:
    offsets = []
    for spec in specs:
        offsets.append(begin)
        begin += spec.nbytes
    return TensorLayout(tuple(specs), tuple(offsets), begin, dict(metadata))


def read_layout(path: Path) -> TensorLayout:
    """Read a file's header.

    Raises:
        CheckpointError: it is not a safetensors file, or not a whole one.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            if length > MAX_HEADER_BYTES:
                raise CheckpointError(f"{path}: a header of {length} bytes")
            entries = json.loads(file.read(length))
            layout = _parse(entries, _LENGTH.size + length)
    except (OSError, struct.error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error!r}") from error
    if layout.num_bytes != size:
        raise CheckpointError(f"{path} has {size} bytes, its header says {layout.num_bytes}")
    return layout


def _parse(entries: dict[str, Any], begin: int) -> TensorLayout:
    metadata = entries.pop("__metadata__", {})
    rows = sorted(entries.items(), key=lambda item: tuple(item[1]["data_offsets"]))
    specs = []
    at = 0
    for name, row in rows:
        spec = _spec(name, row)
        if row["data_offsets"] != [at, at + spec.nbytes]:
            raise ValueError(f"tensor {name!r} does not lie behind the one before")
        at += spec.nbytes
        specs.append(spec)
    return _layout(specs, begin, metadata)


def _spec(name: str, row: dict[str, Any]) -> TensorSpec:
    dtype = _DTYPES[row["dtype"]]
    shape = tuple(row["shape"])
    return TensorSpec(name, dtype, shape, math.prod(shape) * DTYPES[dtype])


class TensorFile:
    """A file of tensors, mapped into memory: read when looked at, and not all kept.

    Stays readable after it was deleted from its folder, as long as somebody holds `data`.

    Attributes:
        layout: where the tensors lie.
        data: the bytes of each, read-only.
    """

    def __init__(self, path: Path) -> None:
        """Map `path` and read its header.

        Raises:
            CheckpointError: it is not a safetensors file, or not a whole one.
        """
        self.layout = read_layout(path)
        try:
            with path.open("rb") as file:
                view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
        places = zip(self.layout.specs, self.layout.offsets, strict=True)
        self.data = tuple(view[at : at + spec.nbytes] for spec, at in places)


class TensorWriter:
    """A new file of tensors, mapped into memory and filled in any order.

    Its space is taken from the disk when it is created: a full disk is an error then, and not a
    signal that kills the daemon when a page is written.

    Attributes:
        layout: where the tensors lie.
        data: the bytes of each, writable.
    """

    def __init__(
        self, path: Path, specs: Sequence[TensorSpec], metadata: Mapping[str, str]
    ) -> None:
        """Create `path` with its header.

        Raises:
            OSError: the disk refuses it.
        """
        header, self.layout = make_header(specs, metadata)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            _reserve(self._fd, self.layout.num_bytes)
            self._map = mmap.mmap(self._fd, self.layout.num_bytes)
        except BaseException:
            self.abandon()
            raise
        view = memoryview(self._map)
        view[: len(header)] = header
        places = zip(self.layout.specs, self.layout.offsets, strict=True)
        self.data = tuple(view[at : at + spec.nbytes] for spec, at in places)

    def close(self) -> None:
        """Bring everything to the disk and close the file.

        Raises:
            OSError: the disk is full or fails.
        """
        fd, self._fd = self._fd, -1
        try:
            self._map.flush()
            os.fsync(fd)
        finally:
            os.close(fd)

    def abandon(self) -> None:
        """Close the file as it is; idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _reserve(fd: int, num_bytes: int) -> None:
    """Take the space of a file from the disk."""
    if sys.platform != "darwin":
        os.posix_fallocate(fd, 0, num_bytes)
        return
    zeros = bytes(min(num_bytes, _PIECE_BYTES))
    for at in range(0, num_bytes, _PIECE_BYTES):
        os.pwrite(fd, zeros[: num_bytes - at], at)
