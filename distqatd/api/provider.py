"""What a daemon must answer; `daemon` implements it, `app` serves it."""

from collections.abc import AsyncIterator
from typing import Protocol

from distqatd.api.actions import Actions
from distqatd.api.checkpoint_schema import Mirror
from distqatd.api.round_schema import Rounds
from distqatd.api.schema import Invite, Peers, Pipelines, RunInfo, Status, Stopping
from distqatd.base.events import Event


class Provider(Protocol):
    """Answers from memory: no method may wait for a peer, nor take more than a few milliseconds.

    A method that cannot answer raises a DistqatError, whose message and exit code reach people.
    """

    @property
    def actions(self) -> Actions:
        """Return what acts, or asks other peers."""
        ...

    async def status(self) -> Status:
        """Return this daemon, the swarm and the run at a glance."""
        ...

    async def peers(self) -> Peers:
        """Return every known peer but this one."""
        ...

    async def pipelines(self) -> Pipelines:
        """Return the routes in use and the gaps."""
        ...

    async def rounds(self, limit: int) -> Rounds:
        """Return the newest `limit` rounds, newest last."""
        ...

    def events(self, since: int, *, follow: bool) -> AsyncIterator[Event]:
        """Yield kept events with a number above `since`, and new ones for ever if `follow`."""
        ...

    async def run(self) -> RunInfo:
        """Return the run's configuration and progress.

        Raises:
            SwarmError: this daemon knows of no run yet.
        """
        ...

    async def invite(self) -> Invite:
        """Return what lets another machine join; it holds the swarm's secret."""
        ...

    async def stop(self, reason: str) -> Stopping:
        """Begin to stop as on SIGTERM, and return at once."""
        ...

    async def mirror(self) -> Mirror:
        """Return what the param mirror of this daemon does.

        Raises:
            CheckpointError: it has none.
        """
        ...

    async def keep_checkpoint(self) -> Mirror:
        """Have the param mirror keep a checkpoint as soon as it can, and return at once.

        Raises:
            CheckpointError: this daemon has none, or another one of the run has its folder.
        """
        ...
