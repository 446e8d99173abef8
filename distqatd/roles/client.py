"""The client role: turns the view into pipelines, finds trainers for them, lends them batches.

    view ──plan_routes──► routes ──► one trainer per pipeline ──sync──► leases, routes, reports
                                                                    └──► the run is finished

Trainers ask and report through `client.sync`; between two syncs they need nobody. The client
needs no torch: where no peer has the trainer role, the daemon starts one inside itself.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from distqatd.base.errors import DistqatError
from distqatd.base.ids import PeerId
from distqatd.net.rpc import Caller
from distqatd.roles import client_calls as calls
from distqatd.roles.context import Context
from distqatd.roles.directory import TTL_S
from distqatd.swarm import records as r
from distqatd.swarm.ledger import Ledger
from distqatd.swarm.routes import Route, plan_routes, route_body
from distqatd.swarm.view import SwarmView
from distqatd.wire.fields import need
from distqatd.wire.payload import Message

POLL_S = 1.0
FIRST_POLL_S = 0.3
"""The swarm is looked at this often, seconds; more often until the first pipeline stands."""

TRAINER_SILENT_S = 20.0
"""A trainer that has not reported for so long is replaced, seconds."""

AGREE_S = 30.0
"""Replicas with different anchors get so long to agree before the run is evaluated, seconds."""

CALL_S = 10.0
EVALUATE_S = 600.0


@dataclass(slots=True)
class Pipeline:
    """A pipeline and the trainer that runs it."""

    number: int
    trainer: PeerId
    heard_at: float
    outer_step: int = 0


class ClientRole:
    """Holds the client's duty for the run."""

    def __init__(
        self, context: Context, start_local_trainer: Callable[[], Awaitable[None]]
    ) -> None:
        self._context = context
        self._start_local_trainer = start_local_trainer
        self._has_local_trainer = False
        self.ledger = Ledger(lease_size=context.config.diloco.inner_steps)
        self.routes: dict[int, Route] = {}
        self.pipelines: dict[int, Pipeline] = {}
        self.last_plan = ""
        self.is_finished = False
        self.finished_unix_s = 0.0
        self._is_over = False
        self._done_at = 0.0
        self.eval_loss = -1.0
        self.eval_accuracy = -1.0
        self._gaps: tuple[str, ...] = ()
        self._served: set[str] = set()
        self._complete: set[int] = set()
        context.rpc.serve(calls.SYNC, self._sync)

    async def run(self) -> None:
        """Form pipelines and keep them staffed until cancelled."""
        while True:
            view = await self._context.directory.next_view()
            self._plan(view)
            await self._staff(view)
            await self._finish_if_done(view)
            self._publish()

    def poll_s(self) -> float:
        """Return how often the swarm should be looked at: often until a pipeline stands."""
        return POLL_S if self.pipelines else FIRST_POLL_S

    # --- pipelines

    def _plan(self, view: SwarmView) -> None:
        config = self._context.config.model_pipeline
        decision = plan_routes(view, self.routes, config.max_pipelines)
        if decision.reason != self.last_plan:
            self.last_plan = decision.reason
            self._context.events.emit("routes.planned", reason=decision.reason)
        # A pipeline in a gap keeps its old route in mind: what still lives of it is reused.
        self.routes = {**self.routes, **decision.value}
        self._complete = set(decision.value)
        self._tell_gaps(view)

    def _tell_gaps(self, view: SwarmView) -> None:
        """A stage that was served and is not any more is news; one that never was is a start."""
        events = self._context.events
        for stage in view.stages:
            if not stage.serving and stage.name not in self._gaps:
                events.emit("stage.gap", degraded=stage.name in self._served, stage=stage.name)
            elif stage.serving and stage.name in self._gaps:
                events.emit("stage.filled", stage=stage.name)
        self._served |= {stage.name for stage in view.stages if stage.serving}
        self._gaps = view.gaps

    async def _staff(self, view: SwarmView) -> None:
        """See that every complete pipeline has a trainer that is heard of."""
        if self._is_over:
            return
        now = asyncio.get_running_loop().time()
        for pipeline in [*self.pipelines.values()]:
            if now - pipeline.heard_at > TRAINER_SILENT_S:
                self._dismiss(pipeline, "it fell silent")
        for number in sorted(self._complete - set(self.pipelines)):
            trainer = await self._pick_trainer(view)
            if trainer is None:
                return
            await self._start(number, trainer)

    async def _pick_trainer(self, view: SwarmView) -> PeerId | None:
        """Return the trainer with the fewest pipelines; start one here if there is none at all."""
        known = {info.peer_id for info in view.trainers}
        if not known and not self._has_local_trainer:
            await self._open_local_trainer()
        if self._has_local_trainer:
            known.add(self._context.peer_id)
        if not known:
            return None
        load = dict.fromkeys(known, 0)
        for pipeline in self.pipelines.values():
            load[pipeline.trainer] = load.get(pipeline.trainer, 0) + 1
        return min(known, key=lambda peer: (load[peer], peer))

    async def _open_local_trainer(self) -> None:
        try:
            await self._start_local_trainer()
        except DistqatError as error:
            self._context.events.emit("trainer.unusable", degraded=True, error=str(error))
        else:
            self._has_local_trainer = True

    async def _start(self, number: int, trainer: PeerId) -> None:
        context = self._context
        message = Message({"pipeline": number, "term": self.ledger.term})
        now = asyncio.get_running_loop().time()
        self.pipelines[number] = Pipeline(number, trainer, now)
        try:
            await context.rpc.call(trainer, calls.START, message, timeout_s=CALL_S)
        except DistqatError as error:
            context.directory.mark_lost(trainer, str(error))
            self._dismiss(self.pipelines[number], str(error))
            return
        context.events.emit("pipeline.staffed", pipeline=number, trainer=trainer)

    def _dismiss(self, pipeline: Pipeline, reason: str) -> None:
        self.pipelines.pop(pipeline.number, None)
        self.ledger.reclaim(pipeline.number)
        self._context.events.emit(
            "trainer.lost", degraded=True, pipeline=pipeline.number, reason=reason
        )

    # --- what trainers ask

    async def _sync(self, caller: Caller, message: Message) -> Message:
        report = calls.Report.read(message.body)
        return Message(self._answer(caller.peer_id, report).body())

    def _answer(self, trainer: PeerId, report: calls.Report) -> calls.Grant:
        is_current = self._note(report)
        pipeline = self.pipelines.get(report.pipeline)
        if pipeline is None or pipeline.trainer != trainer:
            return self._over("another trainer has the pipeline")
        if not is_current:
            self._dismiss(pipeline, "its lease was lent again")
            return self._over("its lease was lent again")
        pipeline.heard_at = asyncio.get_running_loop().time()
        pipeline.outer_step = report.outer_step
        for peer in report.lost:
            self._context.directory.mark_lost(peer, f"pipeline {report.pipeline} cannot reach it")
        if report.lost:
            self._plan(self._without(report.lost))
        if self._is_over or report.outer_step >= self._context.config.diloco.outer_steps:
            return self._over("the last outer step is done")
        return self._grant(report)

    def _without(self, lost: tuple[PeerId, ...]) -> SwarmView:
        return self._context.directory.view.without(lost)

    def _note(self, report: calls.Report) -> bool:
        """Write a report into the ledger; False if a lease it works on is not its own any more."""
        ledger, is_current = self.ledger, True
        ledger.replayed += report.num_replayed
        for held in report.held:
            if ledger.report(report.pipeline, held.fence, held.next, report.num_skipped):
                continue
            # Whoever had the lease has trained these, also a trainer that was taken for dead.
            ledger.late(held.first, held.next)
            is_current = is_current and held.is_done
        return is_current

    def _over(self, reason: str) -> calls.Grant:
        return calls.Grant(self.ledger.term, 0, 0, 0, (), is_over=True, reason=reason)

    def _grant(self, report: calls.Report) -> calls.Grant:
        known = [held.fence for held in report.held]
        lease = self.ledger.grant(report.pipeline, known) if report.wants_lease else None
        route = self.routes[report.pipeline] if report.pipeline in self._complete else ()
        fence, first, end = (lease.fence, lease.first, lease.end) if lease else (0, 0, 0)
        term, session = self.ledger.term, self.ledger.next_fence()
        return calls.Grant(
            term, fence, first, end, route, is_over=False, reason="", session=session
        )

    # --- the end of the run

    async def _finish_if_done(self, view: SwarmView) -> None:
        """When all serving experts have taken the last outer step: evaluate, and say so."""
        last = self._context.config.diloco.outer_steps
        serving = [expert for stage in view.stages for expert in stage.serving]
        if self._is_over or view.gaps or not serving:
            return
        if any(expert.record.outer_step < last for expert in serving):
            return
        now = asyncio.get_running_loop().time()
        self._done_at = self._done_at or now
        if _differ(view) and now - self._done_at < AGREE_S:
            return  # replicas that took a step apart are about to agree
        self._is_over = True
        self.finished_unix_s = self._context.clock.now()
        for number in sorted(self._complete):
            if await self._evaluate(number):
                break
        self.is_finished = True
        self._context.events.emit(
            "run.finished", loss=self.eval_loss, accuracy=self.eval_accuracy, outer_steps=last
        )

    async def _evaluate(self, number: int) -> bool:
        pipeline = self.pipelines.get(number)
        if pipeline is None:
            return False
        message = Message({"route": route_body(self.routes[number])})
        try:
            reply = await self._context.rpc.call(
                pipeline.trainer, calls.EVALUATE, message, timeout_s=EVALUATE_S
            )
        except DistqatError as error:
            self._context.events.emit("evaluation.failed", degraded=True, error=str(error))
            return False
        sums = need(reply.body, "sums", dict)
        count = max(need(sums, "count", float), 1.0)
        self.eval_loss = need(sums, "loss", float) / count
        self.eval_accuracy = need(sums, "correct", float) / count if "correct" in sums else -1.0
        return True

    def _publish(self) -> None:
        context = self._context
        record = r.LeaseRecord(
            addresses=context.addresses(),
            boot_epoch=context.boot_epoch,
            term=self.ledger.term,
            next_batch=self.ledger.next_batch,
            num_pipelines=len(self._complete),
            num_gaps=len(self._gaps),
            committed=self.ledger.committed,
            replayed=self.ledger.replayed,
            lost=self.ledger.lost(),
            duplicated=self.ledger.duplicated,
            is_finished=self.is_finished,
            finished_unix_s=self.finished_unix_s,
            eval_loss=self.eval_loss,
            eval_accuracy=self.eval_accuracy,
        )
        context.dht.announce(r.leases_key(context.run_id), "client", record.pack(), ttl_s=TTL_S)


def _differ(view: SwarmView) -> bool:
    """Return whether replicas of a stage hold different anchors for the same outer step."""
    anchors = {
        (stage.name, expert.record.outer_step, expert.record.anchor_digest)
        for stage in view.stages
        for expert in stage.serving
    }
    return len({(stage, step) for stage, step, _ in anchors}) < len(anchors)
