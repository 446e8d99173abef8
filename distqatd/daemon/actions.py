"""Answers the API where something is done, or other peers are asked."""

from typing import TYPE_CHECKING

from distqatd.api import control_schema as c
from distqatd.base.decision import Decision
from distqatd.base.errors import ControlError, NotFound, SwarmError
from distqatd.base.ids import nickname
from distqatd.daemon.commands import Commands
from distqatd.daemon.doctor import examine
from distqatd.daemon.jobs import Job
from distqatd.daemon.names import Named
from distqatd.daemon.orders import REASSIGN, Order
from distqatd.roles.rebalancer import plan_confirmed
from distqatd.swarm.rebalance import Move

if TYPE_CHECKING:
    from distqatd.daemon.node import Node


class NodeActions:
    """One node's answers; implements `api.actions.Actions`."""

    def __init__(self, node: "Node") -> None:
        self._node = node

    def _commands(self) -> Commands:
        if self._node.commands is None:
            raise SwarmError("this daemon has not joined a run yet; try again in a moment")
        return self._node.commands

    async def order(self, request: c.OrderRequest) -> c.Job:
        """Begin an operation here or on another machine, and return at once.

        Raises:
            DistqatError: it is refused, and nothing has changed.
        """
        commands = self._commands()
        if request.kind == REASSIGN and request.auto == bool(request.stage):
            raise ControlError("to reassign, name the stage or leave it to the swarm: one of both")
        if request.auto and request.force:
            raise ControlError("a stage never loses its last replica to --auto: name the stage")
        if request.auto:
            moves = await self._planned(request.peer)
            if not moves.value:
                raise NotFound(f"nothing to move: {moves.reason}")
            return _job(commands.move_all(moves.value, request.deadline_s))
        whom = commands.find(request.peer)
        order = Order(
            request.kind, whom.scope, request.stage, request.deadline_s, is_forced=request.force
        )
        return _job(await commands.give(order, whom))

    async def job(self, number: int) -> c.Job:
        """Return an operation.

        Raises:
            NotFound: there is none of that number.
        """
        return _job(self._commands().jobs.get(number))

    async def jobs(self) -> c.Jobs:
        """Return the operations that are remembered, oldest first."""
        return c.Jobs(jobs=tuple(_job(job) for job in self._commands().jobs.all()))

    async def _planned(self, peer: str) -> Decision[tuple[Move, ...]]:
        """Return the moves that pay now, into gaps that others see too; of one peer, if named."""
        context = self._node.context
        if context is None:
            raise SwarmError("this daemon has not joined a run yet; try again in a moment")
        client = self._node.client
        whom = self._commands().find(peer) if peer else None
        view = context.directory.view
        decision = await plan_confirmed(context, view, client.routes if client else {})
        moves = decision.value
        if whom is not None:
            moves = tuple(each for each in moves if _is_of(each, whom))
        return Decision(moves, decision.reason)

    async def moves(self, peer: str = "") -> c.Moves:
        """Return the moves that pay now, and why; of one peer or expert, if it is named.

        Raises:
            NotFound: no such peer.
        """
        decision = await self._planned(peer)
        return c.Moves(
            moves=tuple(
                c.Move(
                    uid=move.uid,
                    peer_id=move.peer_id,
                    nickname=nickname(move.peer_id),
                    from_stage=move.from_stage,
                    to_stage=move.to_stage,
                    reason=move.gain,
                )
                for move in decision.value
            ),
            reason=decision.reason,
        )

    async def why(self, peer: str) -> c.Why:
        """Return why a daemon, by default this one, did last what it did.

        Raises:
            NotFound: no such peer, or it does not answer.
        """
        commands = self._commands()
        whom = commands.find(peer)
        return c.Why(
            peer_id=whom.peer_id,
            nickname=nickname(whom.peer_id),
            reasons=tuple(
                c.Reason(
                    kind=each.kind,
                    subject=each.subject,
                    text=each.text,
                    time_unix_s=each.time_unix_s,
                )
                for each in await commands.why(whom.peer_id)
            ),
        )

    async def ping(self, peer: str, *, with_bandwidth: bool) -> c.Ping:
        """Measure the way to a peer.

        Raises:
            NotFound: no such peer, or it does not answer.
        """
        commands = self._commands()
        whom = commands.find(peer).peer_id
        echo = await commands.ping(whom, with_bandwidth=with_bandwidth)
        return c.Ping(
            peer_id=whom,
            nickname=nickname(whom),
            rtt_s=echo.rtt_s,
            jitter_s=echo.jitter_s,
            up_bytes_per_s=echo.up_bytes_per_s,
            down_bytes_per_s=echo.down_bytes_per_s,
            clock_ahead_s=echo.clock_ahead_s,
        )

    async def doctor(self) -> c.Doctor:
        """Look at what can be wrong with this daemon and its machine."""
        return c.Doctor(checks=await examine(self._node))


def _is_of(move: Move, whom: Named) -> bool:
    return move.peer_id == whom.peer_id and (not whom.scope or move.uid in whom.scope)


def _job(job: Job) -> c.Job:
    plan = job.plan
    return c.Job.model_validate(
        {
            "number": job.number,
            "kind": plan.kind,
            "what": plan.what,
            "peer_id": plan.peer_id,
            "nickname": nickname(plan.peer_id),
            "state": "running" if not job.is_over else "failed" if job.code else "done",
            "progress": "" if job.is_over else job.progress(),
            "message": job.message,
            "code": job.code,
            "exit_code": job.exit_code,
            "deadline_s": plan.deadline_s,
            "started_unix_s": job.started_unix_s,
            "seconds": job.seconds,
        }
    )
