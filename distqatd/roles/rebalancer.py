"""Has experts serve another stage when it pays: asked by whoever holds the client's duty.

view ──plan_moves──► the same plan for a while ──► gap? others confirm ──► expert.move ──► moved
                          (grace)                                          (one at a time)
"""

import asyncio
from collections.abc import Collection, Mapping

from distqatd.base.decision import Decision
from distqatd.base.errors import DistqatError
from distqatd.base.ids import ExpertUid
from distqatd.roles.context import Context
from distqatd.roles.vantage import confirm_gap
from distqatd.swarm.rebalance import Limits, Move, plan_moves
from distqatd.swarm.routes import Route
from distqatd.swarm.view import SwarmView
from distqatd.wire.payload import Message

MOVE = "expert.move"
"""Asks a peer to have one of its experts serve another stage: {uid, stage, reason, only_gap}."""

GAP_GRACE_S = 5.0
"""A gap is left so long to joiners and to experts that restart before a spare is moved."""

GAIN_GRACE_S = 30.0
"""A gain must be seen for so long before anybody moves for it."""

REST_S = 60.0
"""After a move nothing moves for gain for so long: speeds have to be measured anew."""

DENIED_S = 30.0
"""A gap in which others see an expert is no gap for so long."""

MOVE_S = 10.0
"""The peer of the expert has so long to accept, seconds."""

Key = tuple[tuple[str, str], ...]


class Rebalancer:
    """Watches the swarm for one holder of the duty.

    Attributes:
        last: what was decided last and why, for `distqatctl why`.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._since: tuple[Key, float] = ((), 0.0)
        self._rests_until = 0.0
        self._is_asking = False
        self._denied_until: dict[str, float] = {}
        self.last: Decision[tuple[Move, ...]] = Decision((), "nothing was looked at yet")

    def look(self, view: SwarmView, routes: Mapping[int, Route]) -> None:
        """Have the first move of the plan made if it has been the plan for long enough.

        Returns at once: whoever holds the duty has more to do than to wait for an answer.

        Args:
            view: the swarm as it is seen now.
            routes: the routes that pipelines use.
        """
        now = asyncio.get_running_loop().time()
        self._denied_until = {s: at for s, at in self._denied_until.items() if at > now}
        self.last = plan(self._context, view, routes, denied_gaps=self._denied_until)
        self._context.note("move", "rebalance", self.last.reason)
        moves = self.last.value
        key = tuple((move.from_stage, move.to_stage) for move in moves)
        if key != self._since[0]:
            self._since = (key, now)
        if self._is_asking or not moves or now - self._since[1] < self._grace_s(moves[0]):
            return
        self._is_asking = True
        self._context.tasks.spawn(self._make(moves[0]), name="rebalancer.move")

    def _grace_s(self, move: Move) -> float:
        if move.is_for_gap:
            return GAP_GRACE_S
        return max(GAIN_GRACE_S, self._rests_until - self._since[1])

    async def _make(self, move: Move) -> None:
        try:
            if not move.is_for_gap or await self._is_confirmed(move.to_stage):
                await self._ask(move)
        finally:
            self._is_asking = False
            now = asyncio.get_running_loop().time()
            self._since, self._rests_until = ((), now), now + REST_S

    async def _is_confirmed(self, stage: str) -> bool:
        decision = await confirm_gap(self._context, stage)
        self._context.note("gap", stage, decision.reason)
        if not decision.value:
            self._denied_until[stage] = asyncio.get_running_loop().time() + DENIED_S
            self._context.events.emit("gap.unconfirmed", stage=stage, reason=decision.reason)
        return decision.value

    async def _ask(self, move: Move) -> None:
        context = self._context
        body = {
            "uid": move.uid,
            "stage": move.to_stage,
            "reason": move.gain[:500],
            "only_gap": move.is_for_gap,
        }
        try:
            await context.rpc.call(move.peer_id, MOVE, Message(body), timeout_s=MOVE_S)
        except DistqatError as error:
            text = f"{move.uid} does not move to {move.to_stage}: {error}"
            context.events.emit("expert.move_refused", degraded=True, uid=move.uid, reason=text)
            context.note("move", move.uid, text)
            return
        context.events.emit(
            "expert.move_asked", uid=move.uid, stage=move.to_stage, reason=move.gain
        )
        context.note("move", move.uid, f"to {move.to_stage}: {move.gain}")


def plan(
    context: Context,
    view: SwarmView,
    routes: Mapping[int, Route],
    *,
    denied_gaps: Collection[str] = (),
) -> Decision[tuple[Move, ...]]:
    """Return what the rebalancer would do in this view, and why; nothing is done."""
    config = context.config
    limits = Limits(
        in_use=in_use(view, routes),
        denied_gaps=tuple(denied_gaps),
        max_pipelines=config.model_pipeline.max_pipelines,
        max_index=config.max_expert_index,
    )
    return plan_moves(view, limits)


async def plan_confirmed(
    context: Context, view: SwarmView, routes: Mapping[int, Route]
) -> Decision[tuple[Move, ...]]:
    """Return the same as `plan`, with only those gaps that other peers see as well."""
    denied = [gap for gap in view.gaps if not (await confirm_gap(context, gap)).value]
    return plan(context, view, routes, denied_gaps=denied)


def in_use(view: SwarmView, routes: Mapping[int, Route]) -> Collection[ExpertUid]:
    """Return the experts that pipelines use: by the client's routes, else by trainers' records."""
    planned = {hop.uid for route in routes.values() for hop in route}
    trained = {ExpertUid(uid) for info in view.trainers for uid in info.record.route}
    return frozenset(planned or trained)
