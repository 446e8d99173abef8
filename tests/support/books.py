"""Reads the experts' books of batches out of a running swarm, as a peer of it."""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import uvloop

from distqatd.base.clock import SystemClock
from distqatd.base.errors import DistqatError
from distqatd.base.events import EventLog
from distqatd.base.ids import PeerId
from distqatd.base.intervals import IntervalSet
from distqatd.base.rng import system_rng
from distqatd.config.sections import Config
from distqatd.identity.keys import Identity
from distqatd.identity.swarm import load_secret, secret_swarm
from distqatd.identity.tls import contexts
from distqatd.net.book import parse_advertised
from distqatd.net.pool import Pool, PoolLimits
from distqatd.net.rpc import Hello
from distqatd.net.tcp import TcpTransport
from distqatd.pipeline.messages import BOOK, BookReply
from distqatd.wire.payload import Message

ASK_S = 5.0


@dataclass(frozen=True, slots=True)
class Asked:
    """An expert to ask."""

    uid: str
    peer_id: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Book:
    """The batches an expert has applied: up to its last outer step, and since."""

    uid: str
    anchor: IntervalSet
    local: IntervalSet
    outer_step: int

    @property
    def stage(self) -> str:
        """Return the expert's stage."""
        return self.uid.split(".")[0]


def read_books(secret_file: Path, experts: Iterable[Asked]) -> list[Book]:
    """Return the books of those experts that answer."""
    logging.disable()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_read_all(_pool(secret_file), [*experts]))


def _pool(secret_file: Path) -> Pool:
    """Return a pool of a peer without a role, which the swarm lets in."""
    identity = Identity.generate(system_rng())
    swarm = secret_swarm(Config().network.swarm_name, load_secret(secret_file))
    clock = SystemClock()

    def hello() -> Hello:
        return Hello(identity.peer_id, swarm.swarm_id, "", "", (), (), 1, 1, 0)

    transport = TcpTransport(contexts(identity, swarm))
    return Pool(
        identity.peer_id, hello, transport, PoolLimits(), clock, system_rng(), EventLog(clock)
    )


def applied(books: Iterable[Book]) -> dict[str, IntervalSet]:
    """Return the batches that each stage has, on any of its replicas."""
    found: dict[str, IntervalSet] = {}
    for book in books:
        known = found.get(book.stage, IntervalSet())
        found[book.stage] = known.union(book.anchor).union(book.local)
    return found


def missing(books: Iterable[Book]) -> dict[str, IntervalSet]:
    """Return the batches that each stage lacks although another stage has them.

    For a moment these are also the ones that are on their way: look twice.
    """
    stages = applied(books)
    anywhere = IntervalSet()
    for batches in stages.values():
        anywhere = anywhere.union(batches)
    return {stage: anywhere.minus(batches) for stage, batches in stages.items()}


def num_applied_twice(books: Iterable[Book]) -> int:
    """Count the batches that two replicas of a stage hold, and those in both parts of a book.

    Only replicas at the same outer step are compared: one that is ahead has in its anchor what
    the other one is about to take over.
    """
    known: dict[tuple[str, int], IntervalSet] = {}
    count = 0
    for book in books:
        key = (book.stage, book.outer_step)
        others = known.get(key, IntervalSet())
        count += book.local.overlap(others) + book.local.overlap(book.anchor)
        known[key] = others.union(book.local)
    return count


async def _read_all(pool: Pool, experts: list[Asked]) -> list[Book]:
    found: list[Book] = []
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(pool.run())
        async with asyncio.TaskGroup() as calls:
            for expert in experts:
                calls.create_task(_read(pool, expert, found))
        await pool.close()
        await running
    return found


async def _read(pool: Pool, expert: Asked, found: list[Book]) -> None:
    pool.learn(PeerId(expert.peer_id), parse_advertised(expert.addresses))
    message = Message({"uid": expert.uid})
    try:
        reply = await pool.call(PeerId(expert.peer_id), BOOK, message, timeout_s=ASK_S)
    except DistqatError:
        return  # it is gone, or has no book yet
    answer = BookReply.read(reply.body)
    found.append(Book(expert.uid, answer.book.anchor, answer.book.local, answer.outer_step))
