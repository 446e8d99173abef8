"""What this daemon can be asked for by its owner: for itself, or for another machine."""

from collections.abc import Callable, Iterable, Sequence

from distqatd.base.errors import NetworkError, NotFound
from distqatd.base.ids import PeerId, nickname
from distqatd.base.reasons import Reason
from distqatd.daemon.control import Control, Movable
from distqatd.daemon.directives import Receiver, Sender
from distqatd.daemon.jobs import Job, Jobs
from distqatd.daemon.names import Named, find
from distqatd.daemon.orders import Order
from distqatd.daemon.ping import Echo, ping, serve_ping
from distqatd.daemon.why import Round, ask_why, own_reasons, serve_why
from distqatd.identity.operator import Operators
from distqatd.roles.context import Context


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
            return self.control.start(order, asked_by=context.peer_id)
        return await self._sender.send(order, whom.peer_id)

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
