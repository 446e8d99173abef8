"""Trainers for pipelines: who runs which, who is gone, and where to start another one.

A trainer is a peer with the trainer role. Where there is none, clients host trainers inside their
own daemons, this one first, one client for each pipeline; only then do they load torch.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass

from distqatd.base.errors import DistqatError, StaleTerm
from distqatd.base.ids import PeerId
from distqatd.roles import client_calls as calls
from distqatd.roles.context import Context
from distqatd.roles.inquiry import adopt_trainers
from distqatd.swarm.view import SwarmView
from distqatd.wire.payload import Message

TRAINER_SILENT_S = 20.0
"""A trainer that has not reported for so long is replaced, seconds; at once if its link broke."""

START_S = 5.0
HOST_S = 120.0
"""A client that is asked to host a trainer has so long to load torch and the data, seconds."""

HOST_AGAIN_S = 15.0
"""A client that could not host a trainer is asked again after so long, seconds."""


MAX_REFUSED = 256


@dataclass(slots=True)
class Pipeline:
    """A pipeline and the trainer that runs it."""

    number: int
    trainer: PeerId
    heard_at: float
    outer_step: int = 0


class Staff:
    """Keeps every complete pipeline staffed; used by the holder of the client's duty."""

    def __init__(self, context: Context, on_dismissed: Callable[[int], None]) -> None:
        self._context = context
        self._on_dismissed = on_dismissed
        self.pipelines: dict[int, Pipeline] = {}
        self._met: dict[PeerId, int] = {}
        self._suspects: set[PeerId] = set()
        self._hosting: set[PeerId] = set()
        self._coming: set[PeerId] = set()
        self._refused_at: dict[PeerId, float] = {}
        self._left: set[PeerId] = set()
        context.rpc.on_lost(self._on_lost)

    def forget(self) -> None:
        """Begin anew: this daemon has taken the duty, or given it up."""
        self.pipelines.clear()
        self._met.clear()
        self._left.clear()
        self._suspects.clear()

    def heard(self, number: int) -> Pipeline:
        """Note that the pipeline's trainer has reported."""
        pipeline = self.pipelines[number]
        pipeline.heard_at = asyncio.get_running_loop().time()
        return pipeline

    def enlist(self, number: int, trainer: PeerId) -> Pipeline:
        """Take a job that a trainer runs already."""
        now = asyncio.get_running_loop().time()
        self.pipelines[number] = Pipeline(number, trainer, now)
        return self.pipelines[number]

    def dismiss(self, number: int, reason: str) -> None:
        """Take a pipeline from its trainer; it gets another one."""
        if self.pipelines.pop(number, None) is not None:
            self._context.events.emit("trainer.lost", degraded=True, pipeline=number, reason=reason)
            self._on_dismissed(number)

    def release(self, number: int) -> None:
        """Take a pipeline from a trainer that leaves; that one gets none any more."""
        pipeline = self.pipelines.pop(number)
        self._left.add(pipeline.trainer)
        self._context.events.emit("trainer.left", pipeline=number, peer=pipeline.trainer)
        self._on_dismissed(number)
        self._context.directory.look_now()

    # --- who is there

    async def meet(self, view: SwarmView, term: int) -> list[tuple[PeerId, calls.Report]]:
        """Adopt the jobs of trainers that are new in this term, and of those whose link broke.

        Returns:
            How their jobs stand; those of a trainer that does not answer are dismissed.
        """
        known = {info.peer_id: info.record.boot_epoch for info in view.trainers}
        for pipeline in self.pipelines.values():
            if pipeline.trainer in self._suspects:
                known.setdefault(pipeline.trainer, 0)
        new = [
            peer
            for peer, epoch in known.items()
            if self._met.get(peer) != epoch or peer in self._suspects
        ]
        self._suspects.clear()
        met = {peer: epoch for peer, epoch in self._met.items() if known.get(peer) == epoch}
        reports: list[tuple[PeerId, calls.Report]] = []
        for peer, found in (await adopt_trainers(self._context, new, term)).items():
            self._check_jobs(peer, found or ())
            if found is not None:
                met[peer] = known[peer]
                reports += [(peer, report) for report in found]
        self._met = met
        self._left &= met.keys() - set(new)  # whoever is new has come back, or is gone for good
        return reports

    def _check_jobs(self, peer: PeerId, reports: Collection[calls.Report]) -> None:
        running = {report.pipeline for report in reports}
        for pipeline in [*self.pipelines.values()]:
            if pipeline.trainer == peer and pipeline.number not in running:
                self.dismiss(pipeline.number, "its trainer is gone")

    def _on_lost(self, peer: PeerId, _: str) -> None:
        """Ask a trainer whose link broke at the next look, which comes at once."""
        self._hosting.discard(peer)
        if any(pipeline.trainer == peer for pipeline in self.pipelines.values()):
            self._suspects.add(peer)

    # --- who gets what

    async def fill(self, view: SwarmView, complete: Collection[int], term: int) -> None:
        """See that every complete pipeline has a trainer that is heard of."""
        now = asyncio.get_running_loop().time()
        for pipeline in [*self.pipelines.values()]:
            if now - pipeline.heard_at > TRAINER_SILENT_S:
                self.dismiss(pipeline.number, "it fell silent")
        trainers = self.trainers(view, len(complete))
        for number in sorted(set(complete) - set(self.pipelines)):
            trainer = self._pick(trainers)
            if trainer is None:
                return
            await self._start(number, trainer, term)

    def trainers(self, view: SwarmView, num_pipelines: int) -> dict[PeerId, int]:
        """Return the trainers with how many pipelines each may run, and have more hosted."""
        known = {info.peer_id for info in view.trainers} | self._hosting
        known |= {pipeline.trainer for pipeline in self.pipelines.values()}
        known -= self._left
        roles = {peer: record.roles for peer, record in view.peers.items()}
        clients = [self._context.peer_id]
        clients += sorted(p for p in roles if "client" in roles[p] and p not in clients)
        if any("trainer" in names for names in roles.values()) or known - set(clients):
            return dict.fromkeys(known, num_pipelines)
        wanted = clients[: max(num_pipelines, 1)] if num_pipelines else []
        coming = [peer for peer in wanted if peer not in known and self._have_hosted(peer)]
        share = -(-num_pipelines // max(len(known) + len(coming), 1))
        return dict.fromkeys(known, share if coming else num_pipelines)

    def _pick(self, trainers: dict[PeerId, int]) -> PeerId | None:
        """Return the trainer with the fewest pipelines, if any may have another one."""
        load = dict.fromkeys(trainers, 0)
        for pipeline in self.pipelines.values():
            load[pipeline.trainer] = load.get(pipeline.trainer, 0) + 1
        free = [peer for peer in trainers if load[peer] < trainers[peer]]
        return min(free, key=lambda peer: (load[peer], peer), default=None)

    async def _start(self, number: int, trainer: PeerId, term: int) -> None:
        context = self._context
        message = Message({"pipeline": number, "term": term})
        self.enlist(number, trainer)
        try:
            await context.rpc.call(trainer, calls.START, message, timeout_s=START_S)
        except StaleTerm as error:
            self._suspects.add(trainer)  # it says at the next look which term it knows
            self.dismiss(number, str(error))
            return
        except DistqatError as error:
            context.directory.mark_lost(trainer, str(error))
            self.dismiss(number, str(error))
            return
        context.events.emit("pipeline.staffed", pipeline=number, trainer=trainer)

    # --- clients that host a trainer

    def _have_hosted(self, peer: PeerId) -> bool:
        """Ask a client for a trainer, if that makes sense; return whether one will come."""
        now = asyncio.get_running_loop().time()
        refused_at = self._refused_at.get(peer)
        if refused_at is not None and now - refused_at < HOST_AGAIN_S:
            return False
        if peer not in self._coming:
            self._coming.add(peer)
            self._context.tasks.spawn(self._host(peer), name="client.host_trainer")
        return True

    async def _host(self, peer: PeerId) -> None:
        context = self._context
        try:
            await context.rpc.call(peer, calls.HOST, Message({}), timeout_s=HOST_S)
        except DistqatError as error:
            context.events.emit("trainer.unusable", degraded=True, peer=peer, error=str(error))
            self._refused_at[peer] = asyncio.get_running_loop().time()
            self._refused_at = dict([*self._refused_at.items()][-MAX_REFUSED:])
        else:
            self._hosting.add(peer)
        finally:
            self._coming.discard(peer)
        context.directory.look_now()
