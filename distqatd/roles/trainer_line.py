"""A job's line to its client: reports, takes the answers, finds the client that has the duty."""

import asyncio
from contextlib import suppress
from dataclasses import replace

from distqatd.base.decision import Decision
from distqatd.base.errors import DistqatError
from distqatd.base.ids import PeerId
from distqatd.roles import client_calls as calls
from distqatd.roles.context import Context
from distqatd.roles.trainer_job import Job
from distqatd.swarm.view import SwarmView
from distqatd.wire.payload import Message

SYNC_TIMEOUT_S = 5.0
RETRY_S = 0.5


def find_client(view: SwarmView, client: PeerId, term: int) -> Decision[PeerId]:
    """Decide whom a trainer reports to whose client is silent: the highest term counts."""
    newest = max(view.leases, key=lambda peer: (view.leases[peer].term, peer), default=client)
    found = view.leases[newest].term if newest in view.leases else term
    if found <= term or newest == client:
        return Decision(client, f"nobody has a higher term than {term}")
    return Decision(newest, f"{newest} has the duty with term {found}, above {term}")


class ClientLine:
    """Keeps one job in touch with its client, beside the steps: they go on while it is silent."""

    def __init__(self, context: Context, job: Job) -> None:
        self._context = context
        self._job = job

    async def run(self) -> None:
        """Report every second, and at once when the job wants an answer, until cancelled."""
        job = self._job
        while True:
            job.due.clear()
            report, num_failures = job.report(), job.num_failures
            try:
                grant = await self._ask(report)
                job.take(report, grant, num_failures)
            except DistqatError as error:
                self._tell_silent(error)
                self._look_elsewhere()
                await asyncio.sleep(RETRY_S)
                continue
            if grant.fence and job.leases.wants_more(job.progress.step_s):
                continue  # it has more to give
            with suppress(TimeoutError):
                async with asyncio.timeout(calls.SYNC_EVERY_S):
                    await job.due.wait()

    async def say_goodbye(self) -> None:
        """Tell the client how far the job came, so that another trainer goes on from there."""
        report = replace(self._job.report(), wants_lease=False, leaves=True)
        try:
            await self._ask(report)
        except DistqatError as error:
            self._tell_silent(error)  # it learns from the experts' books instead

    def _tell_silent(self, error: DistqatError) -> None:
        self._context.events.emit(
            "client.silent", degraded=True, pipeline=self._job.pipeline, error=str(error)
        )

    async def _ask(self, report: calls.Report) -> calls.Grant:
        reply = await self._context.rpc.call(
            self._job.client, calls.SYNC, Message(report.body()), timeout_s=SYNC_TIMEOUT_S
        )
        return calls.Grant.read(reply.body)

    def _look_elsewhere(self) -> None:
        """Report to whoever has the duty now, as far as the directory knows; have it look."""
        job, directory = self._job, self._context.directory
        decision = find_client(directory.view, job.client, job.term)
        if decision.value != job.client:
            job.client = decision.value
            self._context.events.emit(
                "client.found", pipeline=job.pipeline, peer=job.client, reason=decision.reason
            )
        directory.look_now()
