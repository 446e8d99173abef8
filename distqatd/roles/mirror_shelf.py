"""The served side of a param mirror: the newest checkpoint, given stage by stage from its files."""

import asyncio

from distqatd.averaging.manifest import StateBytes
from distqatd.averaging.serving import Run, StateServer
from distqatd.base.errors import SwarmError
from distqatd.checkpoint.manifest import Manifest
from distqatd.checkpoint.reading import Checkpoint
from distqatd.checkpoint.tensor_file import TensorFile
from distqatd.roles.context import Context
from distqatd.roles.directory import TTL_S
from distqatd.swarm import records as r

NUM_LOOKS = 100
LOOK_S = 0.05
"""Our own record must be readable after five seconds at most."""


class Shelf:
    """Gives the stages of one checkpoint to whoever asks, and says so in the DHT."""

    def __init__(self, context: Context, server: StateServer, run: Run) -> None:
        """Prepare.

        Args:
            context: this daemon.
            server: answers for the states that this daemon serves.
            run: where a chunk's sha256 is computed.
        """
        self._context = context
        self._server = server
        self._run = run
        self._states: dict[str, StateBytes] = {}
        self.manifest: Manifest | None = None

    @property
    def outer_step(self) -> int:
        """Return the outer step of the checkpoint; -1 if there is none."""
        return self.manifest.outer_step if self.manifest is not None else -1

    def put(self, checkpoint: Checkpoint) -> None:
        """Give this checkpoint from now on; transfers of the one before go on.

        Raises:
            CheckpointError: a file of it cannot be read.
        """
        manifest = checkpoint.manifest
        states = {}
        for stage in manifest.stages:
            file = TensorFile(checkpoint.folder / stage.file)
            states[stage.name] = StateBytes(
                manifest.outer_step,
                stage.anchor_digest,
                stage.layout_digest,
                stage.meta,
                file.layout.specs,
                file.data,
            )
        is_first, self.manifest, self._states = self.manifest is None, manifest, states
        if is_first:
            self.serve_through(self._server)
        self._announce(manifest)

    def serve_through(self, server: StateServer) -> None:
        """Have another server answer: a daemon has one, and that of its experts replaces ours."""
        self._server = server
        for stage in self._states:
            self._offer(stage)

    def _offer(self, stage: str) -> None:
        # Always all parts: an expert that loads from here has nobody else to get them from.
        self._server.offer(r.mirror_state(stage), lambda _: self._states[stage], self._run)

    def _announce(self, manifest: Manifest) -> None:
        context = self._context
        record = r.MirrorRecord(
            context.addresses(),
            context.boot_epoch,
            manifest.outer_step,
            manifest.config_digest,
        )
        context.dht.announce(r.mirror_key(context.run_id), "", record.pack(), ttl_s=TTL_S)

    async def become_visible(self) -> None:
        """Wait until others can read that we have a checkpoint.

        Raises:
            SwarmError: they cannot.
        """
        for _ in range(NUM_LOOKS):
            mirrors = await self._context.directory.mirrors()
            if self._context.peer_id in (peer_id for peer_id, _ in mirrors):
                return
            await asyncio.sleep(LOOK_S)
        raise SwarmError("our record as a mirror cannot be read; is the DHT reachable?")
