"""The ledger and what it takes to have one: leases for trainers, counts for everybody.

A client that begins its term lends nothing until `prepare` has read the books of all experts;
what trainers report until then is kept. From then on the ledger follows the reports.
"""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import replace

from distqatd.roles import client_calls as calls
from distqatd.roles.context import Context
from distqatd.roles.inquiry import ask_books, leases_of
from distqatd.swarm.ledger import TERM_BITS, Lease, Ledger
from distqatd.swarm.records import LeaseRecord
from distqatd.swarm.recovery import adopt, duplicated, in_every_stage, rebuild
from distqatd.swarm.routes import Route
from distqatd.swarm.view import SwarmView

FORGOTTEN_S = 10.0
"""What waits for a pipeline that is not complete for so long goes to the others, seconds."""


class Lending:
    """Lends batches in one term of the client's duty.

    Attributes:
        ledger: who has which batches; empty until `prepare` has made it.
        is_ready: whether it has.
        conflicts: pipelines that must start anew, found by the last `prepare`.
        rival_term: a term of which experts have seen sessions that this client did not number;
            0 if there is none. Ours must be above it, also where it is the same: its client's
            record has expired.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self.ledger = self._empty(0)
        self.is_ready = False
        self.conflicts: frozenset[int] = frozenset()
        self.rival_term = 0
        self._before: LeaseRecord | None = None
        self._claims: dict[tuple[int, int], Lease] = {}
        self._missed_since: dict[int, float] = {}

    def _empty(self, term: int) -> Ledger:
        return Ledger(lease_size=self._context.config.diloco.inner_steps, term=term)

    def begin(self, term: int, record: LeaseRecord | None) -> None:
        """Begin a term with what the last holder's record tells, or end it (term 0)."""
        self.ledger = self._empty(term)
        self.is_ready = False
        self.conflicts = frozenset()
        self.rival_term = 0
        self._claims.clear()
        self._before = record
        if record is not None:
            self.ledger.replayed = record.replayed
            self.ledger.overflows = record.overflows
            self.ledger.duplicated = record.duplicated

    def counts(self) -> tuple[int, int, int]:
        """Return next batch, committed and lost; the last holder's while there is no ledger."""
        before = self._before
        if self.is_ready or before is None:
            return self.ledger.next_batch, self.ledger.committed, self.ledger.lost()
        return before.next_batch, before.committed, before.lost

    async def prepare(self, view: SwarmView, routes: Mapping[int, Route]) -> bool:
        """Make the ledger, once every stage can be asked; return whether there is one."""
        self.conflicts = frozenset()
        if self.is_ready or view.gaps:
            return self.is_ready
        books = await ask_books(self._context, view)
        if books is None or self._see_rival(max((book.fence for book in books), default=0)):
            return False
        next_batch = self._before.next_batch if self._before is not None else 0
        empty = replace(self.ledger, next_batch=next_batch)
        claims = [*self._claims.values()]
        decision = rebuild(empty, books, claims, routes, view.stage_names)
        self.ledger, self.conflicts = decision.value.ledger, decision.value.conflicts
        self.is_ready = True
        self._claims.clear()
        self._context.events.emit("ledger.rebuilt", term=self.ledger.term, reason=decision.reason)
        return True

    def _see_rival(self, fence: int) -> bool:
        """Return whether somebody else numbered a session above all of ours."""
        is_foreign = fence >= self.ledger.next_fence()
        self.rival_term = fence >> TERM_BITS if is_foreign else 0
        return is_foreign

    # --- trainers

    def note(self, report: calls.Report) -> bool:
        """Write a report down; False if a lease it works on is not its own (any more)."""
        self.ledger.replayed += report.num_replayed
        self.ledger.overflows += report.num_overflows
        if not self.is_ready:
            self._claims |= {(x.pipeline, x.fence): x for x in leases_of(report)}
            return True
        is_current = True
        num_skipped = report.num_skipped
        for held in report.held:
            before = self.ledger.skipped
            if self.ledger.report(report.pipeline, held.fence, held.next, num_skipped):
                num_skipped -= self.ledger.skipped - before  # each counts in one lease
                continue
            # Whoever had the lease has trained these, also a trainer that was taken for dead.
            self.ledger.late(held.first, held.next)
            is_current = is_current and held.is_done
        return is_current

    def adopt(self, report: calls.Report) -> bool:
        """Take over a job that is heard of late; False if its batches are another's by now."""
        return not self.is_ready or adopt(self.ledger, leases_of(report))

    def believe(self, report: calls.Report) -> None:
        """Write down what a trainer that must stop has committed."""
        for lease in leases_of(report):
            if self.is_ready:
                self.ledger.late(lease.first, lease.next)
            else:
                self._claims[lease.pipeline, lease.fence] = replace(lease, end=lease.next)

    def reclaim(self, pipeline: int) -> None:
        """Take back what a pipeline that lost its trainer has not committed."""
        self.ledger.reclaim(pipeline)
        for key, lease in self._claims.items():
            if lease.pipeline == pipeline:
                self._claims[key] = replace(lease, end=lease.next)

    def grant(
        self, report: calls.Report, route: Route, ending: str = "", pace: float = 0.0
    ) -> calls.Grant:
        """Answer a report: the route, and a lease if one is wanted and can be trained.

        `ending` says why the trainer must leave the route it has, if there is no other one;
        `pace` which share of the inner steps it takes.
        """
        ledger, lease = self.ledger, None
        if report.wants_lease and route and self.is_ready:
            lease = ledger.grant(report.pipeline, [held.fence for held in report.held])
        fence, first, end = (lease.fence, lease.first, lease.end) if lease else (0, 0, 0)
        return calls.Grant(
            ledger.term,
            fence,
            first,
            end,
            route,
            is_over=False,
            reason="" if route else ending,
            session=ledger.next_fence(),
            pace=pace,
        )

    # --- books, now and then

    async def free_forgotten(self, view: SwarmView, complete: Collection[int]) -> None:
        """Give what waits for pipelines that stay incomplete to the others.

        What their experts have applied by now is read from the books first.
        """
        now = asyncio.get_running_loop().time()
        waited_for = {w.pipeline for w in self.ledger.waiting} - {-1, *complete}
        self._missed_since = {n: self._missed_since.get(n, now) for n in waited_for}
        gone = [n for n, since in self._missed_since.items() if now - since > FORGOTTEN_S]
        if not gone:
            return
        books = await ask_books(self._context, view)
        if books is not None:
            self.ledger.settle(in_every_stage(books, view.stage_names))
            self.ledger.free(gone)

    async def count_duplicates(self, view: SwarmView) -> None:
        """Read from the experts' books how many batches a stage has applied twice."""
        books = await ask_books(self._context, view)
        if books is not None:
            self.ledger.duplicated = max(self.ledger.duplicated, duplicated(books))
