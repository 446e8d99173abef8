"""Files that are whole and durable, or not there; one small document on disk as a seam."""

import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from distqatd.base.errors import CheckpointError

InThread = Callable[[Callable[[], object]], Awaitable[object]]
"""Runs something slow beside the loop."""


class Disk(Protocol):
    """Where one document is kept."""

    async def read(self) -> bytes | None:
        """Return the document, None if there is none.

        Raises:
            CheckpointError: it cannot be read.
        """
        ...

    async def write(self, data: bytes) -> None:
        """Replace the document; when this returns, the new one survives a loss of power.

        A crash meanwhile leaves either the old or the new document.

        Raises:
            CheckpointError: it cannot be written; the old one is still there.
        """
        ...


class FileDisk:
    """A document in a file of its own, mode 0600."""

    def __init__(self, path: Path, in_thread: InThread, max_bytes: int = 8 << 20) -> None:
        """Keep it at `path`; a file of more than `max_bytes` is not ours."""
        self._path = path
        self._in_thread = in_thread
        self._max_bytes = max_bytes

    async def read(self) -> bytes | None:
        """Return the document, None if there is none; see Disk."""
        found: list[bytes] = []

        def work() -> None:
            if self._path.exists():
                with self._path.open("rb") as file:
                    found.append(file.read(self._max_bytes + 1))

        await self._run(work)
        if found and len(found[0]) > self._max_bytes:
            raise CheckpointError(f"{self._path} is larger than {self._max_bytes} bytes")
        return found[0] if found else None

    async def write(self, data: bytes) -> None:
        """Replace the document; see Disk."""
        await self._run(lambda: _replace(self._path, data))

    async def _run(self, work: Callable[[], object]) -> None:
        try:
            await self._in_thread(work)
        except OSError as error:
            raise CheckpointError(f"{self._path}: {error.strerror or error}") from error


def _replace(path: Path, data: bytes) -> None:
    """Write a file beside `path`, sync it, rename it there, and sync the folder."""
    with draft_beside(path, data) as draft:
        draft.replace(path)
    sync_folder(path.parent)


@contextmanager
def draft_beside(path: Path, data: bytes) -> Iterator[Path]:
    """Give a synced file of mode 0600 beside `path`; at the end it is gone if it is still there.

    Raises:
        OSError: it cannot be written.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk.

    Raises:
        OSError: the disk fails.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
