"""The routes that act on daemons or ask other peers, and what a daemon must answer to them."""

from typing import Annotated, Protocol

from fastapi import Depends, FastAPI, Query

from distqatd.api.control_schema import Doctor, Job, Jobs, Moves, OrderRequest, Ping, Why
from distqatd.api.guard import owner_only

PeerName = Annotated[str, Query(max_length=128)]


class Actions(Protocol):
    """What may take seconds, because other peers are asked; all else is like `Provider`."""

    async def order(self, request: OrderRequest) -> Job:
        """Begin an operation here or on another machine, and return at once.

        Raises:
            DistqatError: it is refused, and nothing has changed.
        """
        ...

    async def job(self, number: int) -> Job:
        """Return an operation.

        Raises:
            NotFound: there is none of that number.
        """
        ...

    async def jobs(self) -> Jobs:
        """Return the operations that are remembered, oldest first."""
        ...

    async def moves(self, peer: str) -> Moves:
        """Return the moves that pay now, and why; of one peer or expert, if it is named.

        Raises:
            NotFound: no such peer.
        """
        ...

    async def why(self, peer: str) -> Why:
        """Return why a daemon, by default this one, did last what it did.

        Raises:
            NotFound: no such peer, or it does not answer.
        """
        ...

    async def ping(self, peer: str, *, with_bandwidth: bool) -> Ping:
        """Measure the way to a peer.

        Raises:
            NotFound: no such peer, or it does not answer.
        """
        ...

    async def doctor(self) -> Doctor:
        """Look at what can be wrong with this daemon and its machine."""
        ...


def add_actions(app: FastAPI, actions: Actions) -> None:
    """Add the routes; all of them are the owner's alone, for they cost others something."""
    owner = [Depends(owner_only)]

    @app.post("/v1/jobs", dependencies=owner, status_code=202)
    async def order(request: OrderRequest) -> Job:
        return await actions.order(request)

    @app.get("/v1/jobs", dependencies=owner)
    async def jobs() -> Jobs:
        return await actions.jobs()

    @app.get("/v1/jobs/{number}", dependencies=owner)
    async def job(number: int) -> Job:
        return await actions.job(number)

    @app.get("/v1/moves", dependencies=owner)
    async def moves(peer: PeerName = "") -> Moves:
        return await actions.moves(peer)

    @app.get("/v1/why", dependencies=owner)
    async def why(peer: PeerName = "") -> Why:
        return await actions.why(peer)

    @app.get("/v1/ping", dependencies=owner)
    async def ping(
        peer: PeerName,
        bandwidth: bool = True,  # noqa: FBT001, FBT002  a query parameter
    ) -> Ping:
        return await actions.ping(peer, with_bandwidth=bandwidth)

    @app.get("/v1/doctor", dependencies=owner)
    async def doctor() -> Doctor:
        return await actions.doctor()
