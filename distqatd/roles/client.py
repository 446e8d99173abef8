"""The client role: turns the view into pipelines, finds trainers for them, lends them batches.

    view ──plan_routes──► routes ──► one trainer per pipeline ──sync──► leases, routes, reports
                                                                    └──► the run is finished

One client holds the duty, the others stand by: see `roles.duty`. Whoever takes it, first or after
another, asks trainers and experts what they have before it lends anything: see `swarm.recovery`.
Trainers ask and report through `client.sync`; between two syncs they need nobody. The client
needs no torch, unless it is asked to host a trainer.
"""

from collections.abc import Awaitable, Callable

from distqatd.base.errors import DistqatError, StaleTerm
from distqatd.base.ids import PeerId
from distqatd.net.rpc import Caller
from distqatd.roles import client_calls as calls
from distqatd.roles.context import Context
from distqatd.roles.directory import TTL_S
from distqatd.roles.duty import Duty
from distqatd.roles.evaluator import Evaluator
from distqatd.roles.lending import Lending
from distqatd.roles.pacing import Pacing
from distqatd.roles.rebalancer import Rebalancer
from distqatd.roles.run_end import RunEnd
from distqatd.roles.staffing import Pipeline, Staff
from distqatd.swarm import records as r
from distqatd.swarm.duty import CLAIM, STEP_DOWN
from distqatd.swarm.ledger import Ledger
from distqatd.swarm.recovery import known_routes
from distqatd.swarm.routes import MAX_PIPELINES, Route, ending, plan_routes, remember
from distqatd.swarm.view import SwarmView
from distqatd.wire.payload import Message

POLL_S = 1.0
FIRST_POLL_S = 0.3
"""The swarm is looked at this often, seconds; more often while no pipeline or no holder is known.
"""

STOP_S = 5.0


class ClientRole:
    """Holds the client's duty for the run, or stands by."""

    def __init__(
        self, context: Context, start_local_trainer: Callable[[], Awaitable[None]]
    ) -> None:
        self._context = context
        self._start_local_trainer = start_local_trainer
        self.duty = Duty(context)
        self.lending = Lending(context)
        self.staff = Staff(context, self.lending.reclaim)
        self.evaluator = Evaluator(context)
        self.pacing = Pacing(context)
        self.end = RunEnd(context, self.evaluator)
        self.rebalancer = Rebalancer(context)
        self.routes: dict[int, Route] = {}
        self.last_plan = ""
        self._gaps: tuple[str, ...] = ()
        self._served: set[str] = set()
        self._complete: set[int] = set()
        self._ending: dict[int, str] = {}
        context.rpc.serve(calls.SYNC, self._sync)
        context.rpc.serve(calls.HOST, self._host)

    @property
    def ledger(self) -> Ledger:
        """Return the book of batches; empty while standing by."""
        return self.lending.ledger

    @property
    def pipelines(self) -> dict[int, Pipeline]:
        """Return who runs which pipeline."""
        return self.staff.pipelines

    @property
    def is_finished(self) -> bool:
        """Return whether the run is over and evaluated, as its holder knows."""
        return self.end.is_finished

    async def run(self) -> None:
        """Hold the duty or stand by, until cancelled."""
        watch = self._context.tasks.keep(self.duty.watch, name="client.watch_duty")
        try:
            while True:
                await self.look(await self._context.directory.next_view())
        finally:
            watch.cancel()

    def poll_s(self) -> float:
        """Return how often the swarm should be looked at."""
        is_calm = bool(self.pipelines) if self.duty.holds else not self.duty.is_vacant
        return POLL_S if is_calm else FIRST_POLL_S

    async def look(self, view: SwarmView) -> None:
        """Do what a view of the swarm calls for."""
        action = (await self.duty.look(view)).value.action
        if action == CLAIM:
            await self._take_duty(view)
        elif action == STEP_DOWN:
            self._give_duty_up()
        if not self.duty.holds:
            return
        self._plan(view)
        for peer, report in await self.staff.meet(view, self.duty.term):
            await self._meet(peer, report)
        if self.lending.rival_term:
            self.duty.learn(max(self.lending.rival_term, self.duty.term + 1))
        if await self.lending.prepare(view, self.routes) and not self.end.is_over:
            for number in self.lending.conflicts & set(self.pipelines):
                await self._stop(self.pipelines[number].trainer, number)
                self.staff.dismiss(number, "its batches were lent twice")
            await self.lending.free_forgotten(view, self._complete)
            await self.staff.fill(view, self._complete, self.duty.term)
            self.rebalancer.look(view, {number: self.routes[number] for number in self._complete})
        await self._look_for_end(view)
        self._publish()

    # --- the duty

    async def _take_duty(self, view: SwarmView) -> None:
        """Begin a term: nothing is known until trainers and experts have said what they have."""
        self.staff.forget()
        self.lending.begin(self.duty.term, self.duty.last_record)
        self.end.begin(self.duty.last_record)
        self.evaluator.begin(self.duty.last_record)
        self.pacing.begin()
        self.routes = known_routes(view)
        self._publish()
        self._context.tasks.spawn(self.duty.tell(view), name="client.tell_duty")

    def _give_duty_up(self) -> None:
        self.staff.forget()
        self.lending.begin(0, None)
        self.end.stop()
        self.evaluator.stop()
        self._context.dht.withdraw(r.leases_key(self._context.run_id), "client")

    async def _host(self, caller: Caller, _: Message) -> Message:
        """Start a trainer inside this daemon, for whoever holds the duty."""
        holder = self.duty.holder or caller.peer_id
        if caller.peer_id not in (self._context.peer_id, holder):
            raise StaleTerm(f"{holder} holds the client's duty, not {caller.peer_id}")
        await self._start_local_trainer()
        return Message({})

    # --- pipelines

    def _plan(self, view: SwarmView) -> None:
        config = self._context.config.model_pipeline
        decision = plan_routes(view, self.routes, config.max_pipelines)
        if decision.reason != self.last_plan:
            self.last_plan = decision.reason
            self._context.events.emit("routes.planned", reason=decision.reason)
            self._context.note("route", "pipelines", decision.reason)
        kept = {n: why for n, why in self._ending.items() if n not in decision.value}
        self._ending = kept | ending(view, self.routes, decision.value)
        # A pipeline in a gap keeps its old route in mind: what still lives of it is reused.
        self.routes = remember(self.routes, decision.value)
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

    async def _meet(self, peer: PeerId, report: calls.Report) -> None:
        """Take over a job that a trainer runs, unless it stands in the way of another."""
        if report.term > self.duty.term:
            self.duty.learn(report.term)
            return
        pipeline = self.pipelines.get(report.pipeline)
        if pipeline is not None and pipeline.trainer != peer:
            self.lending.believe(report)
            await self._stop(peer, report.pipeline)
        elif not self._takes(peer, report):
            await self._stop(peer, report.pipeline)
            self.staff.dismiss(report.pipeline, "its batches were lent again")

    def _takes(self, peer: PeerId, report: calls.Report) -> bool:
        """Write a report down; False if the job must end."""
        is_current = self.lending.note(report)
        if report.pipeline in self.pipelines:
            return is_current
        if not 0 <= report.pipeline < MAX_PIPELINES or not self.lending.adopt(report):
            return False
        self.staff.enlist(report.pipeline, peer)
        return True

    async def _stop(self, peer: PeerId, number: int) -> None:
        message = Message({"pipeline": number, "term": self.duty.term})
        try:
            await self._context.rpc.call(peer, calls.STOP, message, timeout_s=STOP_S)
        except DistqatError as error:
            self._context.events.emit("trainer.unheard", degraded=True, peer=peer, error=str(error))

    # --- what trainers ask

    async def _sync(self, caller: Caller, message: Message) -> Message:
        report = calls.Report.read(message.body)
        if not self.duty.holds:
            raise StaleTerm(f"this client stands by; {self.duty.holder} holds the duty")
        if report.term > self.duty.term:
            self.duty.learn(report.term)
            raise StaleTerm(f"term {report.term} is known, this client holds {self.duty.term}")
        return Message(self._answer(caller.peer_id, report).body())

    def _answer(self, trainer: PeerId, report: calls.Report) -> calls.Grant:
        pipeline = self.pipelines.get(report.pipeline)
        if pipeline is not None and pipeline.trainer != trainer:
            self.lending.believe(report)
            return self._over("another trainer has the pipeline")
        if not self._takes(trainer, report):
            self.staff.dismiss(report.pipeline, "its lease was lent again")
            return self._over("its lease was lent again")
        pipeline = self.staff.heard(report.pipeline)
        pipeline.outer_step = report.outer_step
        self._note_lost(report)
        if report.leaves:
            self.staff.release(report.pipeline)
            return self._over("its trainer leaves")
        if self.end.is_over or report.outer_step >= self._context.config.diloco.outer_steps:
            return self._over("the last outer step is done")
        route = self.routes[report.pipeline] if report.pipeline in self._complete else ()
        self.pacing.note(report.pipeline, report.step_s)
        pace = self.pacing.pace(report.pipeline, self.pipelines)
        return self.lending.grant(report, route, self._ending.get(report.pipeline, ""), pace)

    def _note_lost(self, report: calls.Report) -> None:
        directory = self._context.directory
        for peer in report.lost:
            directory.mark_lost(peer, f"pipeline {report.pipeline} cannot reach it")
        if report.lost:
            self._plan(directory.view.without(report.lost))

    def _over(self, reason: str) -> calls.Grant:
        return calls.Grant(self.duty.term, 0, 0, 0, (), is_over=True, reason=reason)

    # --- the end of the run, and what others see

    async def _look_for_end(self, view: SwarmView) -> None:
        trainers = [self.pipelines[n].trainer for n in sorted(self.pipelines)]
        if self.end.is_over and not self.end.is_finished:
            trainers += self.staff.trainers(view, 1)
        routes = [self.routes[number] for number in sorted(self._complete)]
        if self.end.look(view, routes, dict.fromkeys(trainers)):
            await self.lending.count_duplicates(view)
        if not self.end.is_over:
            self.evaluator.look(view, routes, dict.fromkeys(trainers))

    def _publish(self) -> None:
        context, ledger, end = self._context, self.ledger, self.end
        found = self.evaluator.newest
        next_batch, committed, lost = self.lending.counts()
        record = r.LeaseRecord(
            addresses=context.addresses(),
            boot_epoch=context.boot_epoch,
            term=self.duty.term,
            next_batch=next_batch,
            num_pipelines=len(self._complete),
            num_gaps=len(self._gaps),
            committed=committed,
            replayed=ledger.replayed,
            lost=lost,
            duplicated=ledger.duplicated,
            is_finished=end.is_finished,
            finished_unix_s=end.finished_unix_s,
            eval_loss=found.loss,
            eval_accuracy=found.accuracy,
            eval_return=found.mean_return,
            eval_outer_step=found.outer_step,
            overflows=ledger.overflows,
        )
        context.dht.announce(r.leases_key(context.run_id), "client", record.pack(), ttl_s=TTL_S)
