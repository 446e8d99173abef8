"""Clients of one run with trainers and experts that only answer: no torch, no time."""

from contextlib import asynccontextmanager

from distqatd.base.intervals import IntervalSet
from distqatd.base.rng import seeded_rng
from distqatd.base.tasks import Supervisor
from distqatd.compute.book import BatchBook
from distqatd.pipeline.messages import BOOK, BookReply
from distqatd.roles.client import ClientRole
from distqatd.roles.client_calls import (
    ADOPT,
    EVALUATE,
    START,
    STOP,
    SYNC,
    Grant,
    Held,
    Report,
    reports_body,
)
from distqatd.swarm import records as r
from distqatd.wire.payload import Message
from tests.support.contexts import World
from tests.support.views import record

RUN = "distqat"


class FakeTrainer:
    """Takes every job; `jobs` holds the Report that each would give."""

    def __init__(self, world, peer):
        self.world, self.peer, self.jobs, self.clients = world, peer, {}, {}
        self.rpc = world.net.peer(peer, ("trainer",))
        for method, handler in (
            (START, self.start),
            (STOP, self.stop),
            (ADOPT, self.adopt),
            (EVALUATE, self.evaluate),
        ):
            self.rpc.serve(method, handler)

    async def start(self, caller, message):
        number = message.body["pipeline"]
        self.world.started.append((number, self.peer))
        self.jobs[number] = report(number, term=message.body["term"])
        self.clients[number] = caller.peer_id
        return Message({})

    async def stop(self, _, message):
        self.jobs.pop(message.body["pipeline"], None)
        return Message({})

    async def adopt(self, caller, message):
        for number, job in self.jobs.items():
            if message.body["term"] > job.term:
                self.jobs[number] = report(number, term=message.body["term"], held=job.held)
                self.clients[number] = caller.peer_id
        return Message(reports_body(tuple(self.jobs.values())))

    async def evaluate(self, _, __):
        return Message({"sums": {"loss": 5.0, "correct": 9.0, "count": 10.0}})

    async def sync(self, number=0, client=None, **fields):
        """Report to the client and take what it grants; return the grant."""
        job = self.jobs.get(number) or report(number)
        sent = report(number, **{"term": job.term, "held": job.held, "wants_lease": True, **fields})
        to = client or self.clients.get(number, "me")
        reply = await self.rpc.call(to, SYNC, Message(sent.body()), timeout_s=5)
        grant = Grant.read(reply.body)
        held = tuple(lease for lease in sent.held if not lease.is_done)
        if grant.fence and grant.fence not in [lease.fence for lease in held]:
            held += (Held(grant.fence, grant.first, grant.first, grant.end),)
        self.jobs[number] = report(number, term=grant.term, held=held)
        if grant.is_over:
            self.jobs.pop(number)
        return grant

    async def advance(self, count, number=0):
        """Commit so many batches of the first lease and report."""
        first, *others = self.jobs[number].held
        moved = Held(first.fence, first.first, first.next + count, first.end)
        return await self.sync(number, held=(moved, *others), wants_lease=False)


class ClientWorld(World):
    """Clients, trainers and experts as records, on one board and one network."""

    def __init__(self):
        super().__init__()
        self.started = []
        self.hosted = []
        self.clients = {}
        self.trainers = {}
        self.tasks = Supervisor("test", seeded_rng("tasks"))

    def client(self, peer):
        """Add a client to the run."""
        context = self.context(peer, self.tasks)

        async def host():
            self.hosted.append(peer)
            self.trainer(peer)

        self.clients[peer] = ClientRole(context, host)
        known = r.PeerRecord((), ("client",), "0.1.0", 1)
        self.board.put(r.PEERS_KEY, peer, "", known.pack())
        return self.clients[peer]

    def trainer(self, peer):
        """Add a trainer that waits for work."""
        self.trainers[peer] = FakeTrainer(self, peer)
        idle = r.TrainerRecord((), 1, -1, (), 0, 0, -1.0, 0.0, 0, 0, 0.0)
        self.board.put(r.trainers_key(RUN), peer, "idle", idle.pack())
        return self.trainers[peer]

    def expert(self, peer, uid, *, anchor=(), local=(), fence=0, duplicated=0, **fields):
        """Add an expert, or let it say something new."""
        index = 0 if uid.startswith("front") else 1
        self.board.put(r.stage_key(RUN, index), peer, "0", record(uid, **fields).pack())
        book = BatchBook(IntervalSet.from_pairs(anchor), IntervalSet.from_pairs(local))
        reply = BookReply(book, fence, 0, duplicated)

        async def tell(_, __):
            return Message(reply.body())

        self.net.peer(peer).serve(BOOK, tell)

    def experts(self, count=1, **fields):
        """Add `count` complete pipelines of experts."""
        for i in range(count):
            self.expert(f"f{i}", f"front.0.{i}.0", **fields)
            self.expert(f"b{i}", f"back.0.{i}.0", **fields)

    async def look(self, peer="me"):
        """Let a client look at the swarm once."""
        client = self.clients[peer]
        await client.look(await client._context.directory.refresh())

    def kill(self, peer):
        """Cut a peer off for good; its records stay until they expire."""
        self.net.cut(peer)

    def events(self, peer="me"):
        return self.clients[peer]._context.events.since()

    def lease(self):
        """Return the newest lease record on the board."""
        found = [s for (key, _, _), s in self.board.records.items() if key == r.leases_key(RUN)]
        records = [r.LeaseRecord.parse(stored.value) for stored in found]
        return max(records, key=lambda lease: lease.term)


def report(number, **fields):
    values = {
        "term": 1,
        "held": (),
        "num_replayed": 0,
        "num_skipped": 0,
        "lost": (),
        "wants_lease": False,
        "wants_route": False,
        "outer_step": 0,
    }
    return Report(pipeline=number, **{**values, **fields})


@asynccontextmanager
async def client_world():
    """Give a world with one client, `me`, whose tasks end with the block."""
    world = ClientWorld()
    async with world.tasks:
        world.client("me")
        yield world
