"""The trainer role: runs pipelines for a client, one job per pipeline.

A job asks the client for a lease (batches) and a route (experts), and runs step after step. A
step that fails is aborted and its batch is run again, on the route the client then names; a batch
counts as done when every stage has answered it, never before.
"""

import asyncio
from dataclasses import replace
from functools import partial

from distqatd.base.errors import DistqatError, NonFinite
from distqatd.base.ids import PeerId
from distqatd.compute.executor import Executor
from distqatd.data.batches import Dataset
from distqatd.net.rpc import Caller
from distqatd.pipeline.messages import SessionId
from distqatd.pipeline.runner import LossDesk, RouteRunner, StepResult, evaluate
from distqatd.roles import client_calls as calls
from distqatd.roles.context import Context
from distqatd.roles.directory import TTL_S
from distqatd.roles.trainer_job import Job, check_term, standing
from distqatd.swarm import records as r
from distqatd.swarm.routes import read_route
from distqatd.wire.fields import need
from distqatd.wire.payload import Message

SYNC_TIMEOUT_S = 10.0
RETRY_S = 0.5

MAX_NON_FINITE = 3
"""A batch whose loss is NaN or infinite so often in a row is skipped, and counted as lost."""

MAX_UNSETTLED = 256
"""COMMITs kept for experts that could not be reached; they are delivered before the next OPEN."""


class TrainerRole:
    """Serves `trainer.*` and runs the jobs."""

    def __init__(
        self, context: Context, dataset: Dataset, executor: Executor, desk: LossDesk | None
    ) -> None:
        self._context = context
        self._dataset = dataset
        self._executor = executor
        self._desk = desk
        self.jobs: dict[int, Job] = {}
        context.rpc.serve(calls.START, self._start)
        context.rpc.serve(calls.STOP, self._stop)
        context.rpc.serve(calls.ADOPT, self._adopt)
        context.rpc.serve(calls.EVALUATE, self._evaluate)

    async def run(self) -> None:
        """Keep the records of the jobs fresh until cancelled."""
        try:
            while True:
                self._publish()
                await asyncio.sleep(self._context.config.telemetry.metrics_every)
        finally:
            for job in [*self.jobs.values()]:
                await self._end(job)

    # --- what the client asks

    async def _start(self, caller: Caller, message: Message) -> Message:
        number, term = need(message.body, "pipeline", int), need(message.body, "term", int)
        held = self.jobs.get(number)
        if held is not None:
            check_term(held, caller, term)
        if held is None or held.client != caller.peer_id:
            if held is not None:
                await self._end(held)
            job = Job(number, caller.peer_id, term)
            self.jobs[number] = job
            job.task = self._context.tasks.spawn(self._train(job), name=f"trainer.{number}")
            self._context.events.emit("trainer.started", pipeline=number)
        self.jobs[number].term = term
        return Message({})

    async def _stop(self, caller: Caller, message: Message) -> Message:
        job = self.jobs.get(need(message.body, "pipeline", int))
        if job is not None:
            check_term(job, caller, need(message.body, "term", int))
            await self._end(job)
        return Message({})

    async def _adopt(self, caller: Caller, message: Message) -> Message:
        """Make the caller's every job of an older term, and say how all of them stand."""
        term = need(message.body, "term", int)
        for job in self.jobs.values():
            if term > job.term:
                job.client, job.term = caller.peer_id, term
        return Message(calls.reports_body(tuple(map(standing, self.jobs.values()))))

    async def _end(self, job: Job) -> None:
        self.jobs.pop(job.pipeline, None)
        if job.task is not None:
            job.task.cancel()
        self._context.dht.withdraw(self._key, str(job.pipeline))

    async def _evaluate(self, _: Caller, message: Message) -> Message:
        route = read_route(need(message.body, "route", list))
        batches = await self._executor.run(lambda: [*self._dataset.validation_batches()])
        timeout_s = self._context.config.model_pipeline.forward_timeout
        sums = await evaluate(self._context.rpc, route, batches, timeout_s)
        return Message({"sums": sums})

    # --- one job

    async def _train(self, job: Job) -> None:
        async with asyncio.TaskGroup() as tasks:
            touch = tasks.create_task(self._keep_in_touch(job), name="trainer.keep_in_touch")
            await self._run_leases(job)
            touch.cancel()

    async def _run_leases(self, job: Job) -> None:
        runner: RouteRunner | None = None
        lost: tuple[PeerId, ...] = ()
        while True:
            wants_lease = job.next_batch >= job.end
            report = self._report(
                job, lost=lost, wants_lease=wants_lease, wants_route=runner is None
            )
            grant, lost = await self._sync(job, report), ()
            job.term = max(job.term, grant.term)
            if grant.is_over:
                return await self._finish(job, grant, runner)
            if wants_lease and grant.fence:
                job.fence, job.first, job.end = grant.fence, grant.first, grant.end
                job.next_batch = grant.first
            if not grant.route or job.next_batch >= job.end:
                await asyncio.sleep(RETRY_S)
                continue
            if runner is None:
                runner = self._runner(job, grant)
            try:
                await self._steps(job, runner)
            except DistqatError as error:
                lost = await self._give_up(job, runner, error)
                runner = None

    def _report(
        self,
        job: Job,
        *,
        lost: tuple[PeerId, ...] = (),
        wants_lease: bool = False,
        wants_route: bool = False,
    ) -> calls.Report:
        replays, job.unreported_replays = job.unreported_replays, 0
        skips, job.unreported_skips = job.unreported_skips, 0
        return replace(
            standing(job),
            num_replayed=replays,
            num_skipped=skips,
            lost=lost,
            wants_lease=wants_lease,
            wants_route=wants_route,
        )

    async def _sync(self, job: Job, report: calls.Report) -> calls.Grant:
        """Ask the client until it answers; training waits only if it needs the answer."""
        async with job.syncing:
            while True:
                try:
                    return await self._sync_once(job, report)
                except DistqatError as error:
                    self._context.events.emit(
                        "client.silent", degraded=True, pipeline=job.pipeline, error=str(error)
                    )
                await asyncio.sleep(RETRY_S)

    async def _sync_once(self, job: Job, report: calls.Report) -> calls.Grant:
        reply = await self._context.rpc.call(
            job.client, calls.SYNC, Message(report.body()), timeout_s=SYNC_TIMEOUT_S
        )
        job.reported_at = asyncio.get_running_loop().time()
        return calls.Grant.read(reply.body)

    async def _keep_in_touch(self, job: Job) -> None:
        """Report also while a step hangs: a slow or silent expert is no dead trainer."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(max(0.1, job.reported_at + calls.KEEP_IN_TOUCH_S - loop.time()))
            is_due = loop.time() - job.reported_at >= calls.KEEP_IN_TOUCH_S
            if job.fence and is_due and not job.syncing.locked():
                await self._sync(job, self._report(job))

    def _runner(self, job: Job, grant: calls.Grant) -> RouteRunner:
        context = self._context
        job.serial += 1
        return RouteRunner(
            context.rpc,
            grant.route,
            SessionId(job.fence, job.serial),
            context.config.diloco,
            context.config.model_pipeline,
            self._desk,
            context.events,
            context.config.seed,
        )

    async def _steps(self, job: Job, runner: RouteRunner) -> None:
        """Run the lease's batches until its end, a due report, or a failure (raised)."""
        if not runner.standings:
            await runner.settle(job.unsettled)
            await runner.open()
            job.progress.route = tuple(hop.uid for hop in runner.route)
            self._context.events.emit(
                "pipeline.opened",
                pipeline=job.pipeline,
                route=" ".join(job.progress.route),
                session=runner.session.fence,
            )
            job.progress.outer_step = runner.outer_step
            if self._is_done(runner):
                return  # the last step was applied by the ABORT of the route before
        loop = asyncio.get_running_loop()
        while job.next_batch < job.end:
            number = job.next_batch
            batch = await self._executor.run(partial(self._dataset.batch, number))
            began = loop.time()
            result = await runner.step(batch, number)
            job.next_batch = number + 1
            await self._after_step(job, runner, result, began)
            if self._is_done(runner) or loop.time() - job.reported_at > calls.SYNC_EVERY_S:
                break
        if job.next_batch >= job.end or self._is_done(runner):
            await runner.flush()

    async def _after_step(
        self, job: Job, runner: RouteRunner, result: StepResult, began: float
    ) -> None:
        if result.step == 1:  # whoever waits for the end of a failover waits for this
            number = job.next_batch - 1
            self._context.events.emit("pipeline.running", pipeline=job.pipeline, batch=number)
        if runner.round_is_next:
            await runner.flush()
            await runner.wait_round()
        progress = job.progress
        took_s = max(asyncio.get_running_loop().time() - began, 1e-6)
        speed = result.num_samples / took_s
        progress.samples_per_s += (speed - progress.samples_per_s) * (
            0.1 if progress.samples_per_s else 1.0
        )
        job.num_non_finite = 0
        progress.step += 1
        progress.loss = result.loss
        progress.num_samples += result.num_samples
        progress.outer_step = runner.outer_step
        if progress.step == 1:
            progress.first_step_unix_s = self._context.clock.now()
            self._context.events.emit("trainer.first_step", pipeline=job.pipeline)
            self._publish()

    def _is_done(self, runner: RouteRunner) -> bool:
        return runner.outer_step >= self._context.config.diloco.outer_steps

    async def _give_up(
        self, job: Job, runner: RouteRunner, error: DistqatError
    ) -> tuple[PeerId, ...]:
        job.unreported_replays += 1
        job.progress.num_replayed += 1
        lost = await runner.abort(str(error))
        job.unsettled = dict([*job.unsettled.items(), *runner.unsettled.items()][-MAX_UNSETTLED:])
        self._context.events.emit(
            "step.aborted",
            degraded=True,
            pipeline=job.pipeline,
            batch=job.next_batch,
            error=str(error),
            unreachable=" ".join(lost),
        )
        if isinstance(error, NonFinite):
            self._count_non_finite(job)
        await asyncio.sleep(self._context.rng.uniform(0.05, 0.15))
        return lost

    def _count_non_finite(self, job: Job) -> None:
        """Give up a batch that never has a finite loss: replaying it for ever helps nobody."""
        job.num_non_finite += 1
        if job.num_non_finite < MAX_NON_FINITE:
            return
        self._context.events.emit(
            "batch.skipped", degraded=True, pipeline=job.pipeline, batch=job.next_batch
        )
        job.num_non_finite = 0
        job.next_batch += 1
        job.unreported_skips += 1

    async def _finish(self, job: Job, grant: calls.Grant, runner: RouteRunner | None) -> None:
        if runner is not None:
            await runner.abort("the job is over")
        self._context.events.emit("trainer.ended", pipeline=job.pipeline, reason=grant.reason)
        self.jobs.pop(job.pipeline, None)
        self._publish(job)

    # --- records

    @property
    def _key(self) -> str:
        return r.trainers_key(self._context.run_id)

    def _publish(self, ended: Job | None = None) -> None:
        context = self._context
        idle = Job(-1, context.peer_id)
        for job in [idle, *self.jobs.values(), *([ended] if ended else [])]:
            progress = job.progress
            record = r.TrainerRecord(
                addresses=context.addresses(),
                boot_epoch=context.boot_epoch,
                pipeline=job.pipeline,
                route=progress.route,
                step=progress.step,
                outer_step=progress.outer_step,
                loss=progress.loss,
                samples_per_s=round(progress.samples_per_s, 2),
                num_samples=progress.num_samples,
                num_replayed=progress.num_replayed,
                first_step_unix_s=progress.first_step_unix_s,
            )
            subkey = "idle" if job.pipeline < 0 else str(job.pipeline)
            context.dht.announce(self._key, subkey, record.pack(), ttl_s=TTL_S)
