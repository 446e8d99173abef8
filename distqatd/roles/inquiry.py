"""Asks the swarm what a client must know that knows nothing: trainers' leases, experts' books."""

import asyncio
from collections.abc import Iterable

from distqatd.base.errors import DistqatError
from distqatd.base.ids import PeerId
from distqatd.pipeline.messages import BOOK, BookReply
from distqatd.roles import client_calls as calls
from distqatd.roles.context import Context
from distqatd.swarm.ledger import Lease
from distqatd.swarm.recovery import ExpertBook
from distqatd.swarm.view import ExpertInfo, SwarmView
from distqatd.wire.payload import Message

ASK_S = 3.0
"""Trainers and experts have so long to answer, seconds; then they count as gone."""


async def adopt_trainer(
    context: Context, peer: PeerId, term: int
) -> tuple[calls.Report, ...] | None:
    """Make the trainer's jobs ours and return how they stand; None if it does not answer."""
    message = Message({"term": term})
    try:
        reply = await context.rpc.call(peer, calls.ADOPT, message, timeout_s=ASK_S)
        return calls.read_reports(reply.body)
    except DistqatError as error:
        context.events.emit("trainer.unheard", degraded=True, peer=peer, error=str(error))
        context.directory.mark_lost(peer, str(error))
        return None


async def adopt_trainers(
    context: Context, peers: Iterable[PeerId], term: int
) -> dict[PeerId, tuple[calls.Report, ...] | None]:
    """Adopt the jobs of several trainers at once."""
    found: dict[PeerId, tuple[calls.Report, ...] | None] = {}

    async def one(peer: PeerId) -> None:
        found[peer] = await adopt_trainer(context, peer, term)

    async with asyncio.TaskGroup() as tasks:
        for peer in peers:
            tasks.create_task(one(peer))
    return found


async def ask_books(context: Context, view: SwarmView) -> tuple[ExpertBook, ...] | None:
    """Return the books of all experts of the view.

    Returns:
        None if one did not answer. It is left out of the next view, unless it speaks again.
    """
    found: list[ExpertBook | None] = []

    async def one(expert: ExpertInfo) -> None:
        found.append(await _ask_book(context, expert))

    async with asyncio.TaskGroup() as tasks:
        for expert in (expert for stage in view.stages for expert in stage.members):
            tasks.create_task(one(expert))
    books = [book for book in found if book is not None]
    return tuple(sorted(books, key=lambda book: book.uid)) if len(books) == len(found) else None


async def _ask_book(context: Context, expert: ExpertInfo) -> ExpertBook | None:
    message = Message({"uid": expert.uid})
    try:
        reply = await context.rpc.call(expert.peer_id, BOOK, message, timeout_s=ASK_S)
        read = BookReply.read(reply.body)
    except DistqatError as error:
        context.events.emit("book.unread", degraded=True, uid=expert.uid, error=str(error))
        context.directory.mark_lost(expert.peer_id, str(error))
        return None
    anchor, local = read.book.anchor, read.book.local
    return ExpertBook(expert.uid, expert.stage, anchor, local, read.fence, read.duplicated)


def leases_of(report: calls.Report) -> list[Lease]:
    """Return the leases that a trainer says it holds."""
    return [
        Lease(held.fence, report.pipeline, held.first, held.end, held.next) for held in report.held
    ]
