"""The trainer role: runs pipelines for a client, one job per pipeline.

A job asks the client for leases (batches) and a route (experts), and runs step after step. A step
that fails is aborted and its batch is run again, on the route the client then names; a batch
counts as done when every stage has answered it, never before.

Read `trainer_job` (what a job is), `trainer_leases` (its batches), `trainer_line` (its client),
`trainer_steps` (its work).
"""

import asyncio

from distqatd.base.errors import SwarmError
from distqatd.base.ids import PeerId
from distqatd.net.rpc import Caller
from distqatd.pipeline.desk import LossDesk
from distqatd.pipeline.drivers import Drivers
from distqatd.pipeline.ending import deliver_late
from distqatd.pipeline.evaluating import evaluate, play
from distqatd.roles import client_calls as calls
from distqatd.roles.batches import Batches
from distqatd.roles.context import Context
from distqatd.roles.directory import TTL_S
from distqatd.roles.trainer_job import Job
from distqatd.roles.trainer_line import ClientLine
from distqatd.roles.trainer_steps import JobSteps
from distqatd.swarm import records as r
from distqatd.swarm.routes import read_route
from distqatd.wire.fields import need
from distqatd.wire.payload import Message

IDLE = "idle"
"""Subkey of the record that says that there is a trainer, whatever it trains."""


class TrainerRole:
    """Serves `trainer.*` and runs the jobs."""

    def __init__(self, context: Context, batches: Batches, desk: LossDesk | None) -> None:
        self._context = context
        self._batches = batches
        self._desk = desk
        self.jobs: dict[int, Job] = {}
        self._is_leaving = False
        self._drivers = Drivers(context.rpc)
        context.rpc.serve(calls.START, self._start)
        context.rpc.serve(calls.STOP, self._stop)
        context.rpc.serve(calls.ADOPT, self._adopt)
        context.rpc.serve(calls.EVALUATE, self._evaluate)
        context.rpc.on_lost(self._on_lost)

    async def run(self) -> None:
        """Keep the records of the jobs fresh until cancelled."""
        try:
            while True:
                self._publish()
                await asyncio.sleep(self._context.config.telemetry.metrics_every)
        finally:
            for job in [*self.jobs.values()]:
                self._end(job)

    async def leave(self, deadline_s: float) -> None:
        """End every job after its present step, and have the client give it to another trainer.

        A job whose step takes longer than the deadline is left to be cancelled: it is replayed.
        """
        self._is_leaving = True
        tasks = [job.task for job in self.jobs.values() if job.task is not None]
        for job in self.jobs.values():
            job.leave()
        self._context.dht.withdraw(self._key, IDLE)
        if tasks:
            await asyncio.wait(tasks, timeout=deadline_s)

    # --- what the client asks

    async def _start(self, caller: Caller, message: Message) -> Message:
        number, term = need(message.body, "pipeline", int), need(message.body, "term", int)
        if self._is_leaving:
            raise SwarmError("this trainer leaves; start the pipeline elsewhere")
        held = self.jobs.get(number)
        if held is not None:
            held.check_term(caller, term)
        if held is None or held.client != caller.peer_id:
            if held is not None:
                self._end(held)
            job = Job(number, caller.peer_id, term)
            self.jobs[number] = job
            job.task = self._context.tasks.spawn(self._train(job), name=f"trainer.{number}")
            self._context.events.emit("trainer.started", pipeline=number)
        self.jobs[number].term = term
        return Message({})

    async def _stop(self, caller: Caller, message: Message) -> Message:
        job = self.jobs.get(need(message.body, "pipeline", int))
        if job is not None:
            job.check_term(caller, need(message.body, "term", int))
            self._end(job)
        return Message({})

    async def _adopt(self, caller: Caller, message: Message) -> Message:
        """Make the caller's every job of an older term, and say how all of them stand."""
        term = need(message.body, "term", int)
        for job in self.jobs.values():
            if term > job.term:
                job.follow(caller.peer_id, term)
        reports = tuple(job.standing() for job in self.jobs.values())
        return Message(calls.reports_body(reports))

    async def _evaluate(self, _: Caller, message: Message) -> Message:
        route = read_route(need(message.body, "route", list))
        batches = await self._batches.validation()
        timeout_s = self._context.config.model_pipeline.forward_timeout
        sums = await evaluate(self._context.rpc, route, batches, timeout_s)
        trial = await self._batches.trial()
        if trial is not None:
            sums |= await play(self._context.rpc, route, trial, timeout_s)
        return Message({"sums": sums})

    # --- one job

    async def _train(self, job: Job) -> None:
        context = self._context
        steps = JobSteps(context, self._batches, self._desk, job, self._drivers, self._publish)
        async with asyncio.TaskGroup() as tasks:
            line = ClientLine(context, job)
            reports = tasks.create_task(line.run(), name="trainer.line")
            await steps.run()
            reports.cancel()
        if job.is_leaving:
            await line.say_goodbye()
        context.events.emit("trainer.ended", pipeline=job.pipeline, reason=job.over)
        self.jobs.pop(job.pipeline, None)
        self._publish(job)
        if not job.is_leaving:
            await deliver_late(context.rpc, job.unsettled)

    def _end(self, job: Job) -> None:
        self.jobs.pop(job.pipeline, None)
        if job.task is not None:
            job.task.cancel()
        self._context.dht.withdraw(self._key, str(job.pipeline))

    def _on_lost(self, peer_id: PeerId, reason: str) -> None:
        for job in self.jobs.values():
            if job.runner is not None:
                job.runner.lost(peer_id, reason)

    # --- records

    @property
    def _key(self) -> str:
        return r.trainers_key(self._context.run_id)

    def _publish(self, ended: Job | None = None) -> None:
        context = self._context
        idle = [] if self._is_leaving else [Job(-1, context.peer_id)]
        for job in [*idle, *self.jobs.values(), *([ended] if ended else [])]:
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
                link_bytes=round(progress.link_bytes),
                first_step_unix_s=progress.first_step_unix_s,
                loss_scale=progress.loss_scale,
            )
            subkey = IDLE if job.pipeline < 0 else str(job.pipeline)
            context.dht.announce(self._key, subkey, record.pack(), ttl_s=TTL_S)
