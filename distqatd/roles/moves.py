"""The expert's side of rebalancing: `expert.move` asks one of this daemon's experts to move."""

from collections.abc import Sequence

from distqatd.base.errors import DistqatError, ExpertNotFound, StaleTerm, SwarmError
from distqatd.base.ids import ExpertUid, PeerId
from distqatd.net.rpc import Caller
from distqatd.roles.context import Context
from distqatd.roles.expert import ExpertRole
from distqatd.roles.rebalancer import MOVE
from distqatd.swarm import records as r
from distqatd.swarm.safety import may_leave
from distqatd.swarm.view import SwarmView
from distqatd.wire.fields import need
from distqatd.wire.payload import Message

DEADLINE_S = 120.0
"""A moved expert has so long to bring what it trained to an outer step, seconds."""

MAX_REASON = 500


class Moves:
    """Answers `expert.move` for the experts of this daemon."""

    def __init__(self, context: Context, experts: Sequence[ExpertRole]) -> None:
        """Serve the method; `experts` may still grow."""
        self._context = context
        self._experts = experts
        context.rpc.serve(MOVE, self._move)

    async def _move(self, caller: Caller, message: Message) -> Message:
        """Begin a move and answer at once; how it ends is an event here, and a record there."""
        body = message.body
        uid, stage = need(body, "uid", str), need(body, "stage", str)
        reason = need(body, "reason", str)[:MAX_REASON]
        only_gap = need(body, "only_gap", bool)
        await self._check_duty(caller.peer_id)
        role = self._find(uid)
        if self._context.config.compute.stage is not None:
            raise SwarmError(f"the owner of this machine chose the stage of {uid}; it stays")
        view = await self._context.directory.refresh_experts()
        decision = may_leave(view, ExpertUid(uid))
        if not decision.value:
            raise SwarmError(f"{uid} stays: {decision.reason}")
        expert = view.expert(ExpertUid(uid))
        if expert is not None and stage in view.unfit(expert):
            raise SwarmError(f"{uid} stays: {stage} does not fit into this machine's memory")
        work = self._carry_out(role, stage, reason, only_gap=only_gap)
        self._context.tasks.spawn(work, name=f"expert.move.{uid}")
        return Message({})

    async def _check_duty(self, peer: PeerId) -> None:
        """Make sure that the caller holds the client's duty, as far as records tell."""
        directory = self._context.directory
        if self._holder(directory.view) != peer:
            holder = self._holder(await directory.refresh())
            if holder != peer:
                raise StaleTerm(f"{holder or 'nobody'} holds the client's duty, not {peer}")

    def _holder(self, view: SwarmView) -> PeerId | None:
        """Return who holds the duty: the highest term, then the lowest peer id."""
        leases = view.leases
        return min(leases, key=lambda peer: (-leases[peer].term, peer), default=None)

    def _find(self, uid: str) -> ExpertRole:
        for role in self._experts:
            if role.hosted is not None and role.hosted.uid == uid:
                if role.state != r.SERVING:
                    raise SwarmError(f"{uid} is {role.state}; it cannot move now")
                return role
        raise ExpertNotFound(f"{uid} is not served here")

    async def _carry_out(
        self, role: ExpertRole, stage: str, reason: str, *, only_gap: bool
    ) -> None:
        try:
            outcome = await role.reassign(
                stage, deadline_s=DEADLINE_S, reason=reason, only_gap=only_gap
            )
        except DistqatError as error:
            self._context.events.emit(
                "expert.not_moved", degraded=True, stage=stage, reason=str(error)
            )
            return
        self._context.events.emit(
            "expert.moved" if outcome.is_done else "expert.not_moved",
            degraded=not outcome.is_done,
            stage=stage,
            reason=outcome.reason,
        )
