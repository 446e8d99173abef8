"""The param mirror: keeps checkpoints of committed state on disk, and gives them as a last resort.

Lives in a daemon with the monitor or client role and needs no torch: states travel and are stored
as bytes. A set is all stages at one outer step, with the inner optimizers' state and the books of
batches. What it has published it serves as `mirror/<stage>`, and its record says so.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from distqatd.averaging.offers import Offer
from distqatd.averaging.serving import StateServer
from distqatd.base.decision import Decision
from distqatd.base.errors import CheckpointError
from distqatd.base.ids import ExpertUid
from distqatd.checkpoint.reading import Checkpoint, Fault, newest_good
from distqatd.checkpoint.store import Draft, Store
from distqatd.config.run import dump_run, resume_digest
from distqatd.roles.context import Context
from distqatd.roles.mirror_opening import check_same_run, decide_opening, newest_served
from distqatd.roles.mirror_pull import Puller
from distqatd.roles.mirror_shelf import Shelf
from distqatd.swarm.view import SwarmView

T = TypeVar("T")

WARM_S = 240.0
"""Experts are asked for their state at least this often: only then do they keep inner state."""

IDLE = "idle"

InThread = Callable[[Callable[[], object]], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the last attempt to keep a checkpoint ended; `number` grows with each."""

    number: int
    ok: bool
    text: str


def committed_step(view: SwarmView) -> int:
    """Return the newest outer step that every stage has reached; -1 if one is not served."""
    newest = (
        max((expert.record.outer_step for expert in stage.members), default=-1)
        for stage in view.stages
    )
    return min(newest, default=-1)


def refresh_due(
    committed: int, kept: int, *, wait_s: float, last_step: int, failed: bool, asked: bool
) -> Decision[bool]:
    """Decide whether to keep a checkpoint now.

    Args:
        committed: newest outer step that every stage has reached.
        kept: outer step of the newest checkpoint.
        wait_s: seconds until the next one should be kept.
        last_step: the run's last outer step, which is kept at once.
        failed: the last attempt did, so that another one at once is of little use.
        asked: somebody wants one now.
    """
    if committed <= max(kept, 0):
        return Decision(value=False, reason=f"outer step {kept} is the newest, and it is kept")
    if asked or wait_s <= 0 or (committed >= last_step and not failed):
        return Decision(value=True, reason=f"outer step {committed} is committed, {kept} is kept")
    return Decision(value=False, reason=f"the next one is due in {wait_s:.0f} s")


class MirrorRole:
    """Keeps and serves the checkpoints of one folder."""

    def __init__(
        self, context: Context, root: Path, server: StateServer, in_thread: InThread
    ) -> None:
        """Prepare; `open` comes before `run`.

        Args:
            context: this daemon.
            root: the folder of checkpoints.
            server: answers for the states that this daemon serves.
            in_thread: runs what waits for the disk.
        """
        self._context = context
        self._in_thread = in_thread
        self._puller = Puller(context, self._do)
        self._store: Store | None = None
        self._tried_at = -float("inf")
        self._warmed: dict[tuple[ExpertUid, int], float] = {}
        self._missed = ""
        self._ended = asyncio.Event()
        self.asked = False
        self.root = root
        self.shelf = Shelf(context, server, self._do)
        self.activity = IDLE
        self.outcome = Outcome(0, ok=True, text="none yet")

    # --- start and end

    async def open(self) -> None:
        """Lock the folder, check what it holds, and serve the newest checkpoint.

        To be called before this daemon tells others the run's configuration: experts that join
        through it then find the checkpoint when they look for state. While another daemon of the
        run has the folder we stand by, and take over when it is gone.

        Raises:
            ConfigError: the folder is of another run, or it is not clear whether to go on.
            CheckpointError: the folder cannot be used.
        """
        config = self._context.config
        owner = f"{config.experiment_prefix} {resume_digest(config)}"
        self._store = await self._do(lambda: Store.open(self.root, config.param_mirror.keep, owner))
        if self._store is None:
            return
        try:
            await self._adopt_newest()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the folder; idempotent."""
        store, self._store = self._store, None
        if store is not None:
            store.close()

    async def _adopt_newest(self) -> None:
        context = self._context
        checkpoint, faults = await self._do(lambda: newest_good(self.root))
        self._tell(faults)
        if checkpoint is not None:
            check_same_run(context.config, checkpoint)
        newest = checkpoint.manifest if checkpoint else None
        lives_at = newest_served(context.directory.view)
        decision = decide_opening(self.root, context.config, newest, faults, lives_at)
        context.events.emit("checkpoint.opened", folder=str(self.root), reason=decision.reason)
        if checkpoint is not None and decision.value:
            self.shelf.put(checkpoint)
            await self.shelf.become_visible()

    def _tell(self, faults: tuple[Fault, ...]) -> None:
        for fault in faults:
            self._context.events.emit(
                "checkpoint.corrupt",
                degraded=True,
                folder=str(fault.folder),
                outer_step=fault.outer_step,
                reason=fault.reason,
            )

    # --- refreshing

    async def run(self) -> None:
        """Keep checkpoints until cancelled."""
        while True:
            view = await self._context.directory.next_view()
            if self._store is None:
                await self.open()
                continue
            await self._warm(view)
            if self._is_due(view):
                await self._refresh(self._store)

    def ask(self) -> None:
        """Have a checkpoint kept as soon as it can be; `asked` until an attempt has begun.

        Raises:
            CheckpointError: another daemon of this run keeps the checkpoints.
        """
        if self._store is None:
            raise CheckpointError(f"another daemon of the run keeps checkpoints in {self.root}")
        self.asked = True
        self._context.directory.look_now()

    async def finish(self, within_s: float) -> None:
        """Keep what is committed and not kept yet, before this daemon leaves the swarm."""
        committed = committed_step(self._context.directory.view)
        if self._store is None or committed <= max(self.shelf.outer_step, 0):
            return
        self.ask()
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._ended.wait()

    def _is_due(self, view: SwarmView) -> bool:
        config = self._context.config
        now = asyncio.get_running_loop().time()
        committed = committed_step(view)
        decision = refresh_due(
            committed,
            self.shelf.outer_step,
            wait_s=self._tried_at + config.param_mirror.refresh_every - now,
            last_step=config.diloco.outer_steps,
            failed=not self.outcome.ok,
            asked=self.asked,
        )
        if self.asked and not decision.value:
            self.asked = False
            self._note(ok=self.shelf.outer_step >= 0, text=self._why_not(view, decision.reason))
        return decision.value

    def _why_not(self, view: SwarmView, reason: str) -> str:
        if view.gaps:
            return f"no expert serves {', '.join(view.gaps)}"
        return "no outer step is committed yet" if self.shelf.outer_step < 0 else reason

    async def _warm(self, view: SwarmView) -> None:
        """Ask experts that are new, or were not asked for long, to keep inner state."""
        now = asyncio.get_running_loop().time()
        serving = {(e.uid, e.record.boot_epoch) for stage in view.stages for e in stage.serving}
        old = {key: at for key, at in self._warmed.items() if key in serving}
        self._warmed = old
        if all(now - old.get(key, -WARM_S) < WARM_S for key in serving):
            return
        self._warmed = dict.fromkeys(serving, now)
        await self._puller.collect()

    async def _refresh(self, store: Store) -> None:
        """One attempt to keep a set; a failure leaves everything as it was."""
        self.activity = "asking the stages for their state"
        try:
            await self._puller.collect()
            picked = self._puller.pick(self.shelf.outer_step)
            if picked.value is None:
                self._tell_missed(picked.reason)
                return
            self._tried_at = asyncio.get_running_loop().time()
            self.asked = False
            await self._keep(store, dict(picked.value))
        except CheckpointError as error:
            self._context.events.emit("checkpoint.failed", degraded=True, error=str(error))
            self._note(ok=False, text=str(error))
        finally:
            self.activity = IDLE

    def _tell_missed(self, reason: str) -> None:
        """Say why there is no set to keep; it is looked for again at the next look."""
        if reason != self._missed:
            self._missed = reason
            self._context.events.emit("checkpoint.missed", reason=reason)

    async def _keep(self, store: Store, offers: dict[str, Offer]) -> None:
        """Download a set, publish it, serve it.

        Raises:
            CheckpointError: no donor gave it, or the disk refused it.
        """
        context, began = self._context, asyncio.get_running_loop().time()
        manifests = {stage: offer.manifest for stage, offer in offers.items()}
        outer_step = next(iter(manifests.values())).outer_step
        num_bytes = sum(manifest.num_bytes for manifest in manifests.values())
        self.activity = f"fetching outer step {outer_step}, {num_bytes / 1e6:.1f} MB"
        draft = await self._do(lambda: store.begin(outer_step, num_bytes))
        try:
            await self._puller.download(offers, draft)
        except BaseException:
            draft.discard()
            raise
        self.activity = f"writing outer step {outer_step}, {num_bytes / 1e6:.1f} MB"
        checkpoint = await self._publish(draft)
        self.shelf.put(checkpoint)
        context.events.emit(
            "checkpoint.published",
            outer_step=outer_step,
            folder=str(checkpoint.folder),
            num_bytes=checkpoint.manifest.num_bytes,
            batches=len(checkpoint.manifest.batches),
            seconds=round(asyncio.get_running_loop().time() - began, 3),
        )
        self._note(ok=True, text=f"outer step {outer_step} is kept in {checkpoint.folder}")

    async def _publish(self, draft: Draft) -> Checkpoint:
        config, run_id = self._context.config, self._context.run_id
        now_unix_s = self._context.clock.now()
        return await self._do(
            lambda: draft.publish(run_id, dump_run(config), resume_digest(config), now_unix_s)
        )

    def _note(self, *, ok: bool, text: str) -> None:
        self.outcome = Outcome(self.outcome.number + 1, ok, text)
        self._ended.set()
        self._ended = asyncio.Event()

    async def _do(self, work: Callable[[], T]) -> T:
        return cast("T", await self._in_thread(work))
