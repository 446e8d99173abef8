"""A job's steps: open the route the client names, run batch after batch, get over failures."""

import asyncio
from collections.abc import Callable, Sequence

from distqatd.base.backoff import Backoff
from distqatd.base.errors import DistqatError, HopLost, NonFinite
from distqatd.pipeline.desk import LossDesk
from distqatd.pipeline.drivers import MAX_UNSETTLED, Drivers
from distqatd.pipeline.messages import SessionId
from distqatd.pipeline.outcome import StepResult
from distqatd.pipeline.runner import RouteRunner
from distqatd.pipeline.scaling import LossScaling
from distqatd.roles.batches import Batches
from distqatd.roles.context import Context
from distqatd.roles.trainer_job import Job
from distqatd.roles.trainer_leases import Lent

MAX_NON_FINITE = 3
"""A batch whose loss is NaN or infinite so often in a row is skipped, and counted as lost."""

ASK_AGAIN_S = 0.25
"""A job without a route or a lease asks its client this often, seconds."""

BACKOFF = Backoff(first_s=0.05, cap_s=1.0)
"""Between failures of one route after the other with no step between them."""


class JobSteps:
    """Runs the steps of one job."""

    def __init__(
        self,
        context: Context,
        batches: Batches,
        desk: LossDesk | None,
        job: Job,
        drivers: Drivers,
        on_first_step: Callable[[], None],
    ) -> None:
        self._context = context
        self._batches = batches
        self._desk = desk
        self._job = job
        self._drivers = drivers
        self._on_first_step = on_first_step
        self._num_non_finite = 0
        self._num_in_vain = 0
        self._in_step = False
        self._why_route = "it is the first one"
        self._scaling = LossScaling(context.config.data)

    async def run(self) -> None:
        """Run until the client says that the job is over."""
        job = self._job
        try:
            await self._run_steps()
        finally:  # also where the job is cancelled
            if job.runner is not None:
                self._drivers.left(job.runner.session)

    async def _run_steps(self) -> None:
        job = self._job
        while job.over is None:
            try:
                await self._go_on()
            except DistqatError as error:
                await self._give_up(error)
        if job.runner is not None:
            await self._end(job.runner, "the job is over")

    async def _go_on(self) -> None:
        """Do what comes next: open or change the route, run a batch, or wait for the client."""
        job = self._job
        lease, runner = job.leases.current, job.runner
        if runner is not None:
            await self._go_on_along(runner, lease)
        elif lease is None or not job.route:
            await self._wait_for_news()
        else:
            await self._open(lease)

    async def _go_on_along(self, runner: RouteRunner, lease: Lent | None) -> None:
        job = self._job
        if (job.route or job.must_leave) and job.route != runner.route:
            await self._leave(runner)
        elif lease is None or self._is_done(runner):
            await runner.flush()
            await self._wait_for_news()
        elif not lease.is_known:
            self._skip(lease, await runner.find(lease.next, lease.end))
        else:
            await self._step(runner, lease)

    async def _wait_for_news(self) -> None:
        """Ask the client, and again after a moment as long as its answer is of no use."""
        job = self._job
        job.news.clear()
        job.due.set()
        await job.news.wait()
        is_done = job.runner is not None and self._is_done(job.runner)
        can_train = job.leases.current is not None and bool(job.route) and not is_done
        if job.over is None and not can_train:
            await asyncio.sleep(ASK_AGAIN_S)

    # --- the route

    async def _open(self, lease: Lent) -> None:
        context, job = self._context, self._job
        job.serial += 1
        runner = job.runner = RouteRunner(
            context.rpc,
            job.route,
            SessionId(job.session, job.serial),
            context.config.diloco,
            context.config.model_pipeline,
            self._desk,
            context.events,
            context.config.seed,
        )
        runner.scaling = self._scaling
        self._drivers.driven.add(runner.session)
        await runner.settle(job.unsettled)
        self._skip(lease, await runner.open(lease.next, lease.end))
        self._scaling.adopt(standing.scale for standing in runner.standings.values())
        if runner.round_is_next:
            await runner.wait_round()
        job.progress.route = tuple(hop.uid for hop in runner.route)
        job.progress.outer_step = runner.outer_step
        route = " ".join(job.progress.route)
        context.note("route", f"pipeline {job.pipeline}", f"{route}: {self._why_route}")
        context.events.emit(
            "pipeline.opened",
            pipeline=job.pipeline,
            route=route,
            session=runner.session.fence,
        )

    def _skip(self, lease: Lent, first_missing: int) -> None:
        """Leave out the batches that all experts of the route have in their books.

        The lease may have been lent to another trainer before, that told nobody how far it came.
        """
        lease.is_known = True
        if first_missing <= lease.next:
            return
        self._context.events.emit(
            "lease.continued",
            pipeline=self._job.pipeline,
            first=lease.next,
            next=first_missing,
        )
        lease.next = min(first_missing, lease.end)

    async def _leave(self, runner: RouteRunner) -> None:
        """Leave the route for the one the client wants, or for none: nothing is replayed."""
        job = self._job
        await runner.flush()
        await self._end(runner, "the pipeline takes another route")
        left = " ".join(hop.uid for hop in runner.route if hop not in job.route)
        self._why_route = f"the client wants it without {left or 'an earlier life of these'}"
        self._context.events.emit(
            "pipeline.rerouted",
            pipeline=job.pipeline,
            left=left,
            route=" ".join(hop.uid for hop in job.route),
        )
        job.runner = None
        job.leases.forget_experts()

    # --- steps

    async def _step(self, runner: RouteRunner, lease: Lent) -> None:
        number = lease.next
        loop = asyncio.get_running_loop()
        batch = await self._batches.batch(number, lease.end)
        began = loop.time()
        self._in_step = True
        runner.pace = self._job.pace
        result = await runner.step(batch, number)
        self._in_step = False
        if result.vetoes:
            self._count_overflow(result, number)
        else:
            lease.next = number + 1
            self._count(result, number, max(loop.time() - began, 1e-6))
        if runner.round_is_next:
            await runner.flush()
            await runner.wait_round()
        self._job.progress.outer_step = runner.outer_step

    def _count_overflow(self, result: StepResult, number: int) -> None:
        """Take note that all stages drop a step; its batch is the next one again.

        Not given up, as loss scaling is usually done: it would be in the books of all stages with
        nothing trained on it, and a trainer that takes over might train one stage on it.
        """
        self._job.progress.num_overflows += 1
        self._job.unreported_overflows += 1
        scale = self._scaling.scale
        self._context.events.emit(
            "step.overflowed",
            pipeline=self._job.pipeline,
            batch=number,
            vetoes=" ".join(result.vetoes),
            loss_scale=scale.value if scale is not None else 1.0,
        )

    def _count(self, result: StepResult, number: int, took_s: float) -> None:
        events, progress = self._context.events, self._job.progress
        self._num_non_finite = self._num_in_vain = 0
        progress.count(result.loss, result.num_samples, took_s, result.link_bytes)
        progress.loss_scale = self._scaling.scale.value if self._scaling.scale is not None else 0.0
        if result.step == 1:  # whoever waits for the end of a failover waits for this
            events.emit("pipeline.running", pipeline=self._job.pipeline, batch=number)
        if progress.step == 1:
            progress.first_step_unix_s = self._context.clock.now()
            events.emit("trainer.first_step", pipeline=self._job.pipeline)
            self._on_first_step()

    def _is_done(self, runner: RouteRunner) -> bool:
        return runner.outer_step >= self._context.config.diloco.outer_steps

    # --- failures

    async def _give_up(self, error: DistqatError) -> None:
        """Drop the open step everywhere, and have the client name another route."""
        job = self._job
        runner, job.runner = job.runner, None
        job.route, job.num_failures = (), job.num_failures + 1
        self._why_route = f"the one before failed: {error}"
        kind = "step.aborted" if self._in_step else "route.failed"
        self._count_replay()
        batch = job.leases.current.next if job.leases.current is not None else -1
        if runner is not None:
            await self._end(runner, str(error), (error.uid,) if isinstance(error, HopLost) else ())
        job.leases.forget_experts()
        job.due.set()
        self._context.events.emit(
            kind,
            degraded=True,
            pipeline=job.pipeline,
            batch=batch,
            error=str(error),
            unreachable=" ".join(job.lost),
        )
        if isinstance(error, NonFinite):
            self._count_non_finite()
        self._num_in_vain += 1
        if self._num_in_vain > 1:
            await asyncio.sleep(BACKOFF.delay_s(self._num_in_vain - 1, self._context.rng))

    def _count_replay(self) -> None:
        if self._in_step:
            self._job.unreported_replays += 1
            self._job.progress.num_replayed += 1
        self._in_step = False

    async def _end(self, runner: RouteRunner, reason: str, lost: Sequence[str] = ()) -> None:
        job = self._job
        ending = await runner.abort(reason, lost)
        self._drivers.left(runner.session, ending.unsettled.values())
        job.lost = tuple(dict.fromkeys((*job.lost, *ending.lost)))
        job.unsettled = dict([*job.unsettled.items(), *ending.unsettled.items()][-MAX_UNSETTLED:])
        if ending.replay is not None:
            job.leases.replay(ending.replay)

    def _count_non_finite(self) -> None:
        """Give up a batch that never has a finite loss: replaying it for ever helps nobody."""
        self._num_non_finite += 1
        lease = self._job.leases.current
        if self._num_non_finite < MAX_NON_FINITE or lease is None:
            return
        self._context.events.emit(
            "batch.skipped", degraded=True, pipeline=self._job.pipeline, batch=lease.next
        )
        self._num_non_finite = 0
        self._scaling.given_up()
        lease.next += 1
        self._job.unreported_skips += 1
