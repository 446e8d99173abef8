"""Secrets on disk: created whole with mode 0600, never read when others could have."""

import os
import stat
from contextlib import suppress
from pathlib import Path

from distqatd.base.disk import draft_beside
from distqatd.base.errors import IdentityError

MAX_BYTES = 16 << 10
"""No key or secret of ours is larger; anything above is the wrong file."""


def read_private(path: Path) -> bytes:
    """Return the content of a file that only its owner can read.

    Raises:
        IdentityError: missing, unreadable, too large, or open to others (with the `chmod`).
    """
    try:
        with path.open("rb") as file:
            _refuse_loose_mode(path, os.fstat(file.fileno()))
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise IdentityError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise IdentityError(f"{path} is larger than {MAX_BYTES} bytes: not a key or secret of ours")
    return content


def read_or_create_private(path: Path, content: bytes) -> bytes:
    """Return what `path` holds; if there is no such file, create it with `content` first.

    The file appears under its name complete or not at all, and of two processes that create it
    at the same time both return the same bytes.

    Raises:
        IdentityError: it can neither be created nor read, or it is open to others.
    """
    if not path.exists():
        try:
            _create(path, content)
        except OSError as error:
            raise IdentityError(f"cannot create {path}: {error.strerror}") from error
    return read_private(path)


def _create(path: Path, content: bytes) -> None:
    """Write a 0600 file beside `path` and link it there; an existing `path` is left alone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # link, not rename: it fails when another process was first, so nobody's key is replaced.
    with draft_beside(path, content) as draft, suppress(FileExistsError):
        os.link(draft, path)


def _refuse_loose_mode(path: Path, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    # A systemd credential shows as root:root 0440; its ACL lets in the service's user alone.
    is_credential = status.st_uid == status.st_gid == 0 != os.geteuid() and not mode & 0o037
    if mode & 0o077 and not is_credential:
        raise IdentityError(
            f"{path} can be read by other users (mode {mode:04o}), so it is not secret;"
            f" fix: chmod 600 {path}"
        )
