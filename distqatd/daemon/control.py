"""Carries out orders on the experts of this daemon.

What must be refused is refused at once, before anything has changed; the rest is a job.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from distqatd.base.errors import (
    ControlError,
    DeadlinePassed,
    DistqatError,
    NotFound,
    OutOfScope,
    Unsafe,
)
from distqatd.base.ids import ExpertUid, PeerId, nickname
from distqatd.daemon.jobs import Job, Jobs, Plan
from distqatd.daemon.movable import Movable, Outcome
from distqatd.daemon.orders import REASSIGN, RESUME, Order
from distqatd.roles.context import Context
from distqatd.swarm.records import DRAINING
from distqatd.swarm.safety import may_leave
from distqatd.swarm.view import SwarmView

GUARD_S = 0.7
"""After so long who leaves at the same moment is known, seconds; a drain takes at least 1.5 s."""

BY_OWNER = "the owner of this machine asked for it"


class Control:
    """Orders to this daemon.

    Args:
        context: this daemon.
        experts: asked for its expert roles, which start later than this.
        jobs: where operations run.
    """

    def __init__(
        self, context: Context, experts: Callable[[], Sequence[Movable]], jobs: Jobs
    ) -> None:
        self._context = context
        self._experts = experts
        self._jobs = jobs

    async def start(self, order: Order, *, asked_by: PeerId, reason: str = BY_OWNER) -> Job:
        """Begin to carry out an order; the job goes on whoever stops watching it.

        The swarm is looked at first: who left a moment ago must not count as staying.

        Raises:
            NotFound: no expert here, or no stage of that name.
            OutOfScope: an expert that the order names is not one of this daemon.
            Unsafe: a stage would lose its last replica, and the order is not forced.
            ControlError: several experts are here, and only one can move; or too many jobs run.
        """
        self._chosen(order)
        view = await self._context.directory.refresh_experts()
        experts = self._chosen(order)
        self._check(order, experts, view)
        me = self._context.peer_id

        async def work() -> str:
            return await self._carry_out(order, experts, reason)

        plan = Plan(order.kind, f"{order} on {nickname(me)}", me, asked_by, order.deadline_s)
        job = self._jobs.start(plan, work, lambda: _standing(experts))
        self._context.events.emit(
            f"control.{order.kind}", order=str(order), reason=reason, asked_by=asked_by
        )
        return job

    async def leave(self, *, deadline_s: float, reason: str) -> None:
        """Drain every expert that serves, because the daemon is about to stop."""
        serving = [expert for expert in self._experts() if expert.slot is not None]
        async with asyncio.TaskGroup() as tasks:
            for expert in serving:
                tasks.create_task(_leave(expert, deadline_s, reason))

    # --- what must be refused

    def _chosen(self, order: Order) -> list[Movable]:
        """Return the experts that an order is about."""
        experts = list(self._experts())
        if not experts:
            raise NotFound(f"{nickname(self._context.peer_id)} hosts no expert to {order.kind}")
        held = {_uid(expert): expert for expert in experts}
        missing = [uid for uid in order.scope if uid not in held]
        if missing:
            here = ", ".join(sorted(uid for uid in held if uid)) or "none"
            raise OutOfScope(f"{', '.join(missing)} is not hosted here; here is {here}")
        return [held[uid] for uid in order.scope] if order.scope else experts

    def _check(self, order: Order, experts: Sequence[Movable], view: SwarmView) -> None:
        if order.kind == RESUME:
            return  # takes another order back
        if order.kind == REASSIGN:
            self._check_stage(order, experts, view)
        staying = order.kind == REASSIGN and all(_stage(e) == order.stage for e in experts)
        if not order.is_forced and not staying:
            self._check_safe(experts, view)

    def _check_stage(self, order: Order, experts: Sequence[Movable], view: SwarmView) -> None:
        if order.stage not in view.stage_names:
            names = ", ".join(view.stage_names)
            raise NotFound(f"there is no stage {order.stage!r} in this run; it has {names}")
        if len(experts) > 1:
            uids = ", ".join(sorted(_uid(expert) for expert in experts))
            raise ControlError(f"several experts are here, move one of them: {uids}")

    def _check_safe(self, experts: Sequence[Movable], view: SwarmView) -> None:
        """Refuse if the experts together are all that a stage has."""
        lone = []
        for expert in experts:
            uid = ExpertUid(_uid(expert))
            verdict = may_leave(view, uid)
            if not verdict.value:
                lone.append(verdict.reason)
            view = _without(view, uid)
        if lone:
            raise Unsafe(
                f"{'; '.join(lone)}: training would stop\n"
                "fix: wait until another machine serves the stage (distqatctl status), or --force"
            )

    # --- what is done

    async def _carry_out(self, order: Order, experts: Sequence[Movable], reason: str) -> str:
        outcomes: dict[str, Outcome] = {}

        async def one(expert: Movable) -> None:
            uid = _uid(expert) or "the expert"
            async with asyncio.TaskGroup() as guarded:
                guard = guarded.create_task(self._guard(order, expert))
                outcomes[uid] = await _act(order, expert, reason)
                guard.cancel()

        try:
            async with asyncio.TaskGroup() as tasks:
                for expert in experts:
                    tasks.create_task(one(expert))
        except* DistqatError as group:
            raise _first(group) from None
        return _summary(outcomes)

    async def _guard(self, order: Order, expert: Movable) -> None:
        """Take a drain back if the stage's other replicas were told to leave at the same moment.

        Each of them saw the others stay when it was asked; of those that leave the one with the
        lowest peer id goes on, as with claims.
        """
        if order.kind == RESUME or order.is_forced or expert.slot is None:
            return
        slot, me = expert.slot, self._context.peer_id
        await asyncio.sleep(GUARD_S)
        view = await self._context.directory.refresh_experts()
        stage = view.stage(slot.stage)
        leaving = [e.peer_id for e in stage.members if not e.is_serving]
        if expert.state == DRAINING and not stage.serving and min(leaving, default=me) < me:
            self._context.note("drain", slot.uid, f"taken back: all of {slot.stage} would leave")
            await expert.resume()


def _first(error: BaseException) -> BaseException:
    """Return the first error out of the groups that task groups wrap around it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _leave(expert: Movable, deadline_s: float, reason: str) -> None:
    await expert.drain(deadline_s=deadline_s, reason=reason)


async def _act(order: Order, expert: Movable, reason: str) -> Outcome:
    if order.kind == RESUME:
        return await expert.resume()
    if order.kind == REASSIGN:
        return await expert.reassign(order.stage, deadline_s=order.deadline_s, reason=reason)
    return await expert.drain(deadline_s=order.deadline_s, reason=reason)


def _summary(outcomes: Mapping[str, Outcome]) -> str:
    """Return how it went for all.

    Raises:
        ControlError: one did not do it.
        DeadlinePassed: all did, but the deadline cut one of them off.
    """
    text = "; ".join(f"{uid}: {outcome.reason}" for uid, outcome in sorted(outcomes.items()))
    if not all(outcome.is_done for outcome in outcomes.values()):
        raise ControlError(text)
    if any(outcome.num_cut or outcome.num_dropped for outcome in outcomes.values()):
        raise DeadlinePassed(text)
    return text


def _standing(experts: Sequence[Movable]) -> str:
    return "; ".join(f"{_uid(expert) or 'the expert'} {expert.state}" for expert in experts)


def _without(view: SwarmView, uid: ExpertUid) -> SwarmView:
    """Return the view as it is when this expert has left."""
    stages = (
        replace(stage, experts=tuple(e for e in stage.experts if e.uid != uid))
        for stage in view.stages
    )
    return replace(view, stages=tuple(stages))


def _uid(expert: Movable) -> str:
    return expert.slot.uid if expert.slot is not None else ""


def _stage(expert: Movable) -> str:
    return expert.slot.stage if expert.slot is not None else ""
