"""What a role is given, made of fakes: records in a dict, calls in memory."""

import itertools
from dataclasses import dataclass, field

from distqatd.base.events import EventLog
from distqatd.base.ids import RunId
from distqatd.base.rng import seeded_rng
from distqatd.base.tasks import Supervisor
from distqatd.config.sections import Config
from distqatd.roles.context import Context
from distqatd.roles.directory import Directory
from tests.support.memory_rpc import MemoryNetwork


@dataclass(frozen=True)
class Stored:
    peer_id: str
    subkey: str
    value: bytes
    seq: int


class FakeClock:
    def now(self):
        return 1_700_000_000.0


@dataclass
class Board:
    """All peers' records: what the DHT would hold."""

    records: dict = field(default_factory=dict)
    seqs: object = field(default_factory=lambda: itertools.count(1))

    async def get(self, key):
        return [s for (found, _, _), s in self.records.items() if found == key]

    def put(self, key, peer_id, subkey, value):
        self.records[key, peer_id, subkey] = Stored(peer_id, subkey, value, next(self.seqs))

    def drop(self, peer_id):
        self.records = {slot: s for slot, s in self.records.items() if slot[1] != peer_id}


class Announcements:
    """One peer's way to put records on the board."""

    def __init__(self, board, peer_id):
        self.board, self.peer_id = board, peer_id

    def announce(self, key, subkey, value, *, ttl_s):
        self.board.put(key, self.peer_id, subkey, value)

    def withdraw(self, key, subkey):
        self.board.records.pop((key, self.peer_id, subkey), None)


class World:
    """Peers that share a board and a network."""

    def __init__(self, config=None):
        self.config = config or Config()
        self.board = Board()
        self.net = MemoryNetwork()

    def source(self, peer_id):
        """Return what a peer reads records from."""
        return self.board

    def context(self, peer_id, tasks=None, roles=("client",)):
        rpc = self.net.peer(peer_id, roles)
        events = EventLog(FakeClock())
        names = tuple(stage.stage for stage in self.config.model_pipeline.pipeline)
        run_id = RunId(self.config.experiment_prefix)
        return Context(
            peer_id=peer_id,
            boot_epoch=1,
            run_id=run_id,
            config=self.config,
            rpc=rpc,
            dht=Announcements(self.board, peer_id),
            directory=Directory(self.source(peer_id), rpc, events, run_id, names),
            clock=FakeClock(),
            rng=seeded_rng(peer_id),
            events=events,
            tasks=tasks or Supervisor("test", seeded_rng("tasks")),
            addresses=lambda: ("/ip4/10.0.0.1/tcp/1",),
        )


def kinds(context):
    return [event.kind for event in context.events.since()]
