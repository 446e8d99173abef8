"""What this daemon can be asked for by its owner: for itself, or for another machine."""

from collections.abc import Callable, Iterable, Sequence

from distqatd.base.errors import NetworkError, NotFound, error_for_code
from distqatd.base.ids import PeerId, nickname
from distqatd.base.reasons import Reason
from distqatd.daemon.control import Control
from distqatd.daemon.directives import Receiver, Sender
from distqatd.daemon.jobs import Job, Jobs, Plan
from distqatd.daemon.movable import Movable
from distqatd.daemon.names import Named, find
from distqatd.daemon.orders import REASSIGN, Order
from distqatd.daemon.ping import Echo, ping, serve_ping
from distqatd.daemon.why import Round, ask_why, own_reasons, serve_why
from distqatd.identity.operator import Operators
from distqatd.roles.context import Context
from distqatd.swarm.rebalance import Move


class Commands:
    """One daemon's commands; takes other operators' as well.

    Args:
        context: this daemon.
        swarm_id: its swarm.
        operators: tells whose directives count now.
        experts: tells this daemon's expert roles.
        rounds: tells the rounds that this daemon took part in, oldest first.
    """

    def __init__(
        self,
        context: Context,
        swarm_id: str,
        operators: Callable[[], Operators],
        experts: Callable[[], Sequence[Movable]],
        rounds: Callable[[], Iterable[Round]],
    ) -> None:
        self._context = context
        self._rounds = rounds
        self.jobs = Jobs(context.tasks, context.clock)
        self.control = Control(context, experts, self.jobs)
        self._sender = Sender(context, swarm_id, operators, self.jobs)
        self._receiver = Receiver(context, swarm_id, operators, self.control, self.jobs)
        serve_ping(context.rpc, context.clock)
        serve_why(context.rpc, self.reasons)

    def find(self, name: str) -> Named:
        """Return whom a name means.

        Raises:
            NotFound: nobody, or several.
        """
        context = self._context
        directory = context.directory
        return find(name, directory.view, context.peer_id, directory.others())

    async def give(self, order: Order, whom: Named) -> Job:
        """Have an order carried out here or elsewhere, and return the job that follows it.

        Raises:
            DistqatError: it is refused, here or there; nothing has changed then.
        """
        context = self._context
        if whom.peer_id == context.peer_id:
            return await self.control.start(order, asked_by=context.peer_id)
        return await self._sender.send(order, whom.peer_id)

    def move_all(self, moves: Sequence[Move], deadline_s: float) -> Job:
        """Return a job that has experts serve other stages, one after the other."""
        context = self._context
        seen = [f"{len(moves)} to move"]

        async def work() -> str:
            for move in moves:
                seen[0] = f"{move.uid} moves to {move.to_stage}"
                await self._move(move, deadline_s)
            return "; ".join(f"{move.uid} moved to {move.to_stage}" for move in moves)

        me = context.peer_id
        plan = Plan(REASSIGN, f"reassign {len(moves)} experts", me, me, deadline_s * len(moves))
        return self.jobs.start(plan, work, lambda: seen[0])

    async def _move(self, move: Move, deadline_s: float) -> None:
        order = Order(REASSIGN, (move.uid,), move.to_stage, deadline_s)
        job = await self.give(order, Named(move.peer_id, (move.uid,)))
        await job.over.wait()
        if job.code:
            raise error_for_code(job.code)(f"{move.uid}: {job.message}")

    def reasons(self) -> tuple[Reason, ...]:
        """Return why this daemon did what it did last, the newest first."""
        return own_reasons(self._context, self._rounds())

    async def why(self, peer: PeerId) -> tuple[Reason, ...]:
        """Return the reasons of this daemon or of another one.

        Raises:
            NotFound: the other one does not answer.
        """
        if peer == self._context.peer_id:
            return self.reasons()
        try:
            return await ask_why(self._context.rpc, peer)
        except NetworkError as error:
            raise NotFound(f"{nickname(peer)} cannot be asked: {error}") from error

    async def ping(self, peer: PeerId, *, with_bandwidth: bool) -> Echo:
        """Measure the way to a peer.

        Raises:
            NotFound: it does not answer.
        """
        context = self._context
        try:
            return await ping(context.rpc, context.clock, peer, with_bandwidth=with_bandwidth)
        except NetworkError as error:
            raise NotFound(f"{nickname(peer)} cannot be reached: {error}") from error
