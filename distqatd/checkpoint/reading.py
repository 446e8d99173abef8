"""Finding checkpoints in a folder, and checking one before it is believed.

Nothing here writes or locks: it is safe beside a daemon that publishes. A checkpoint that the
daemon removes while it is being read counts as absent, not as corrupt.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from distqatd.base.errors import CheckpointError
from distqatd.checkpoint.manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, FileEntry, Manifest

_FOLDER = re.compile(r"step-(\d{12})")
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A published checkpoint whose files were checked, unless said otherwise."""

    folder: Path
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Fault:
    """A published checkpoint that cannot be used, and why."""

    folder: Path
    outer_step: int
    reason: str


def folder_name(outer_step: int) -> str:
    """Return the name of the folder of an outer step's checkpoint."""
    return f"step-{outer_step:012d}"


def published_steps(root: Path) -> list[int]:
    """Return the outer steps that have a checkpoint in `root`, newest first; none without it."""
    try:
        names = [path.name for path in root.iterdir()]
    except FileNotFoundError:
        return []
    matches = (_FOLDER.fullmatch(name) for name in names)
    return sorted((int(match[1]) for match in matches if match), reverse=True)


def read_manifest(folder: Path) -> Manifest:
    """Return what a checkpoint says it is; its files are not looked at.

    Raises:
        CheckpointError: the manifest is missing or not what was written.
    """
    path = folder / MANIFEST_FILE
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return Manifest.parse(data)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def verify(folder: Path) -> Checkpoint:
    """Read a checkpoint and every byte of its files; blocking, as slow as the disk.

    Raises:
        CheckpointError: it is not exactly what was published; names the first file that differs.
    """
    manifest = read_manifest(folder)
    if folder.name != folder_name(manifest.outer_step):
        raise CheckpointError(f"{folder} holds outer step {manifest.outer_step}")
    for name, entry in manifest.files.items():
        found = hash_file(folder / name)
        if found.num_bytes != entry.num_bytes:
            size = f"{found.num_bytes} bytes, {entry.num_bytes} were written"
            raise CheckpointError(f"{folder / name} has {size}")
        if found.sha256 != entry.sha256:
            raise CheckpointError(f"{folder / name} is corrupt: its sha256 is another")
    return Checkpoint(folder, manifest)


def hash_file(path: Path) -> FileEntry:
    """Return size and sha256 of a file; blocking.

    Raises:
        CheckpointError: it cannot be read.
    """
    sha256, num_bytes = hashlib.sha256(), 0
    try:
        with path.open("rb", buffering=0) as file:
            while piece := file.read(_PIECE_BYTES):
                sha256.update(piece)
                num_bytes += len(piece)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    return FileEntry(num_bytes, sha256.hexdigest())


def look(root: Path) -> tuple[tuple[Checkpoint, ...], tuple[Fault, ...]]:
    """Verify all checkpoints in `root`; return the good ones, newest first, and the others."""
    good: list[Checkpoint] = []
    faults: list[Fault] = []
    for outer_step in published_steps(root):
        found = _verify_or_fault(root, outer_step)
        if isinstance(found, Checkpoint):
            good.append(found)
        elif found is not None:
            faults.append(found)
    return tuple(good), tuple(faults)


def newest_good(root: Path) -> tuple[Checkpoint | None, tuple[Fault, ...]]:
    """Return the newest checkpoint that is whole, and the newer ones that are not."""
    faults: list[Fault] = []
    for outer_step in published_steps(root):
        found = _verify_or_fault(root, outer_step)
        if isinstance(found, Checkpoint):
            return found, tuple(faults)
        if found is not None:
            faults.append(found)
    return None, tuple(faults)


def _verify_or_fault(root: Path, outer_step: int) -> Checkpoint | Fault | None:
    """Verify one; None if it was removed meanwhile."""
    folder = root / folder_name(outer_step)
    try:
        return verify(folder)
    except CheckpointError as error:
        return Fault(folder, outer_step, str(error)) if folder.exists() else None
