"""What one daemon was started with, after every source of configuration was merged."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from distqatd.config.sections import Config

ROLES = ("monitor", "client", "expert", "trainer")
"""Every role a daemon can take, in the order in which they start."""


@dataclass(frozen=True, slots=True)
class Options:
    """One daemon's start.

    Attributes:
        roles: some of ROLES, each once, in that order; at least one.
        config: the merged configuration.
        origins: where each given value came from, by dotted path; absent means default.
        state_dir: folder of identity.key, swarm.secret, api.sock and lock; may not exist yet.
        log_file: log there instead of to standard error.
        parent_fd: read end of a pipe whose other end the parent holds; end of file on it means
            that the parent is gone and the daemon must stop at once.
        verbose: show tracebacks, log at debug level.
    """

    roles: tuple[str, ...]
    config: Config
    state_dir: Path
    origins: Mapping[str, str] = field(default_factory=dict)
    log_file: Path | None = None
    parent_fd: int | None = None
    verbose: bool = False
