"""Where a local run keeps its state and its logs, and what stops two runs from sharing them."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from distqatctl.errors import REFUSED, CommandFailed

_PREFIX = "dq-"
_LOCK = "local.lock"
_LONGEST_ROOT = 70
"""Bytes that leave room for `/trainer_10/api.sock` in the 103 to 107 of a unix socket path."""


@dataclass(frozen=True, slots=True)
class Folders:
    """State and logs of one run; `join_file` is written by the monitor."""

    state_root: Path
    log_dir: Path

    @property
    def join_file(self) -> Path:
        """Return the file that lists where to join."""
        return self.log_dir / "initial_peers.txt"


@contextmanager
def open_folders(prefix: str, run_dir: Path | None) -> Iterator[Folders]:
    """Make the folders; on leaving, remove the state unless `run_dir` names where to keep it.

    Raises:
        CommandFailed: another run uses the log folder.
    """
    log_dir = Path("logs") / prefix
    log_dir.mkdir(parents=True, exist_ok=True)
    with _locked(log_dir) as free:
        if not free:
            raise CommandFailed(
                f"another distqatctl local is using {log_dir}",
                code=REFUSED,
                fix="wait for it, or name this run: --set experiment_prefix=NAME",
            )
        folders = Folders(_state_root(run_dir), log_dir)
        folders.join_file.unlink(missing_ok=True)
        try:
            with _locked(folders.state_root):
                yield folders
        finally:
            if run_dir is None:
                shutil.rmtree(folders.state_root, ignore_errors=True)


def _state_root(run_dir: Path | None) -> Path:
    if run_dir is not None:
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return run_dir.resolve()
    parent = Path(tempfile.gettempdir())
    parent = parent if len(os.fsencode(parent)) <= _LONGEST_ROOT else Path("/tmp")  # noqa: S108  mkdtemp makes a private folder in it
    _remove_abandoned(parent)
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))


def _remove_abandoned(parent: Path) -> None:
    """Remove the state of runs that were killed before they could do it themselves."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if not (folder / _LOCK).exists() or folder.stat().st_uid != os.getuid():
                continue
            with _locked(folder) as free:
                abandoned = free
            if abandoned:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock if it is free; the kernel frees it when we die, however we die."""
    with (folder / _LOCK).open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
