"""The folder that a daemon keeps checkpoints in: one writer, any number of readers.

Publishing: files are written into a hidden folder and brought to the disk, then one rename makes
them a checkpoint. Whatever kills the writer, a folder named `step-...` is whole. A checkpoint
counts as kept (acked) when `Draft.publish` has returned.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from distqatd.base.disk import sync_folder
from distqatd.base.errors import CheckpointError, ConfigError
from distqatd.checkpoint.manifest import (
    MANIFEST_FILE,
    RUN_FILE,
    FileEntry,
    Manifest,
    StageEntry,
)
from distqatd.checkpoint.reading import Checkpoint, folder_name, hash_file, published_steps
from distqatd.checkpoint.tensor_file import TensorWriter
from distqatd.wire.payload import TensorSpec

SPARE_BYTES = 1 << 20
"""Space left besides what a checkpoint needs: for headers, the manifest and its folder."""

_LOCK = "lock"
_MAX_OWNER_BYTES = 1024
_NEW, _OLD = ".new-", ".old-"

T = TypeVar("T")


class Store:
    """A folder of checkpoints, locked for one daemon."""

    def __init__(self, root: Path, keep: int, lock: int) -> None:
        """Take over a locked folder; use `open`."""
        self.root = root
        self._keep = keep
        self._lock = lock

    @classmethod
    def open(cls, root: Path, keep: int, owner: str) -> "Store | None":
        """Make the folder, lock it, and remove what killed writers left behind.

        Args:
            root: the folder; must be on a disk that supports locks and rename.
            keep: checkpoints to keep, at least 1.
            owner: names the run, so that its daemons can tell each other from strangers.

        Returns:
            The store, or None while another daemon of the same owner has it: who gets nothing may
            try again, and takes over when the other one is gone.

        Raises:
            ConfigError: a daemon of another owner has the folder.
            CheckpointError: it cannot be written.
        """
        what = f"{root} cannot be used"
        lock = _or_explain(lambda: _open_lock(root), what)
        try:
            if _or_explain(lambda: _lock_for(lock, owner), what):
                store = cls(root, keep, lock)
                _or_explain(store._sweep, what)
                return store
            _check_owner(lock, owner, root)
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
        return None

    def close(self) -> None:
        """Let another daemon have the folder; idempotent."""
        fd, self._lock = self._lock, -1
        if fd >= 0:
            os.close(fd)

    def begin(self, outer_step: int, num_bytes: int) -> "Draft":
        """Begin a checkpoint that will have `num_bytes` of tensors.

        Raises:
            CheckpointError: the disk has not enough space, or refuses.
        """
        free = _or_explain(lambda: _free_bytes(self.root), f"{self.root} cannot be used")
        if free < num_bytes + SPARE_BYTES:
            raise CheckpointError(
                f"a checkpoint of {num_bytes} bytes does not fit into {self.root}, which has "
                f"{free} bytes left; free some, or lower param_mirror.keep ({self._keep})"
            )
        folder = self.root / f"{_NEW}{folder_name(outer_step)}"
        _or_explain(lambda: _fresh(folder), f"{folder} cannot be made")
        return Draft(self, outer_step, folder)

    def publish(self, draft: Path, manifest: Manifest) -> Checkpoint:
        """Make a finished draft a checkpoint; older ones beyond `keep` go.

        Raises:
            OSError: the disk fails. Nothing was published, unless only the last sync failed.
        """
        folder = self.root / folder_name(manifest.outer_step)
        if folder.exists():
            # It is corrupt, or of a future that a resume gave up: the new one takes its place.
            self._set_aside(folder)
        draft.rename(folder)
        sync_folder(self.root)
        self._prune(manifest.outer_step)
        return Checkpoint(folder, manifest)

    def _prune(self, newest: int) -> None:
        """Remove the oldest; those above `newest` are corrupt, or of a future that was given up."""
        steps = [step for step in published_steps(self.root) if step <= newest]
        for step in steps[self._keep :]:
            folder = self.root / folder_name(step)
            # Renamed first: a reader sees a whole checkpoint or none. What fails is swept later.
            with suppress(OSError):
                self._set_aside(folder)
        self._sweep()

    def _set_aside(self, folder: Path) -> None:
        aside = self.root / f"{_OLD}{folder.name}"
        if aside.exists():
            shutil.rmtree(aside)
        folder.rename(aside)

    def _sweep(self) -> None:
        """Remove hidden folders: unfinished drafts of dead writers, and old checkpoints."""
        for path in self.root.iterdir():
            if path.name.startswith((_NEW, _OLD)):
                shutil.rmtree(path, ignore_errors=True)


class Draft:
    """A checkpoint that is being written; invisible until it is published."""

    def __init__(self, store: Store, outer_step: int, folder: Path) -> None:
        self.outer_step = outer_step
        self._store = store
        self._folder = folder
        self._writers: dict[str, TensorWriter] = {}
        self._stages: list[StageEntry] = []

    def add_stage(self, stage: StageEntry, specs: Sequence[TensorSpec]) -> TensorWriter:
        """Create the file of a stage; its `data` is to be filled before `publish`.

        Raises:
            CheckpointError: the disk is full or fails.
        """
        metadata = {
            "outer_step": str(self.outer_step),
            "stage": stage.name,
            "anchor_digest": stage.anchor_digest,
        }
        writer = self._do(lambda: TensorWriter(self._folder / stage.file, specs, metadata))
        self._writers[stage.file] = writer
        self._stages.append(stage)
        return writer

    def publish(
        self, run: str, run_config: bytes, config_digest: str, now_unix_s: float
    ) -> Checkpoint:
        """Bring all files to the disk and make them a checkpoint; blocking.

        Args:
            run: name of the run.
            run_config: its run-wide configuration, from `dump_run`.
            config_digest: the sha256 of that in hex.
            now_unix_s: by the daemon's clock.

        Raises:
            CheckpointError: the disk is full or fails; the draft is removed, older checkpoints
                are as they were.
        """
        return self._do(
            lambda: self._store.publish(
                self._folder,
                self._finish(run, run_config, config_digest, now_unix_s),
            )
        )

    def _finish(
        self, run: str, run_config: bytes, config_digest: str, now_unix_s: float
    ) -> Manifest:
        for writer in self._writers.values():
            writer.close()
        _write_file(self._folder / RUN_FILE, run_config)
        names = (RUN_FILE, *self._writers)
        manifest = Manifest(
            run,
            self.outer_step,
            config_digest,
            now_unix_s,
            tuple(self._stages),
            self._hash(names),
        )
        _write_file(self._folder / MANIFEST_FILE, manifest.to_json())
        sync_folder(self._folder)
        return manifest

    def _hash(self, names: Sequence[str]) -> Mapping[str, FileEntry]:
        # Read back from the files: chunks came in any order, and this sees what was written.
        return {name: hash_file(self._folder / name) for name in names}

    def discard(self) -> None:
        """Remove the draft; idempotent, does nothing once it was published."""
        for writer in self._writers.values():
            writer.abandon()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _do(self, work: Callable[[], T]) -> T:
        try:
            return _or_explain(
                work, f"the checkpoint of outer step {self.outer_step} cannot be kept"
            )
        except BaseException:
            self.discard()
            raise


def read_run_config(checkpoint: Checkpoint) -> bytes:
    """Return the run-wide configuration that a verified checkpoint was made with.

    Raises:
        CheckpointError: it cannot be read.
    """
    path = checkpoint.folder / RUN_FILE
    return _or_explain(path.read_bytes, f"{path} cannot be read")


def _or_explain(work: Callable[[], T], what: str) -> T:
    try:
        return work()
    except OSError as error:
        raise CheckpointError(f"{what}: {error.strerror or error}") from error


def _open_lock(root: Path) -> int:
    if not root.exists():
        root.mkdir(parents=True)
        sync_folder(root.parent)
    return os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _lock_for(lock: int, owner: str) -> bool:
    """Take the lock and write into it whose it is; False if somebody else has it.

    The kernel frees it when the daemon dies, however it dies.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    os.ftruncate(lock, 0)
    os.pwrite(lock, owner.encode(), 0)
    return True


def _check_owner(lock: int, owner: str, root: Path) -> None:
    """Raise ConfigError unless the daemon that has the lock is of this owner."""
    holder = os.pread(lock, _MAX_OWNER_BYTES, 0).decode(errors="replace")
    if holder != owner:
        raise ConfigError(
            f"a daemon of another run ({holder}) keeps its checkpoints in {root}\n"
            "fix: give this one a folder of its own: --param-mirror-checkpoint-dir DIR"
        )


def _free_bytes(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def _fresh(folder: Path) -> Path:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    return folder


def _write_file(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
