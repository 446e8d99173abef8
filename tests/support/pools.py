"""Daemons' pools over a transport, running, and told of each other."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

from distqatd.base.clock import SystemClock
from distqatd.base.events import EventLog
from distqatd.base.ids import PeerId
from distqatd.base.rng import seeded_rng
from distqatd.net.pool import Pool, PoolLimits
from distqatd.net.rpc import Hello
from tests.support.memory_transport import MemoryNet, MemoryTransport


def peer(letter):
    return PeerId(letter * 52)


def hello_of(peer_id, **fields):
    plain = Hello(peer_id, "swarm", "", "", ("expert",), (), 1, 1, 0)
    return replace(plain, **fields)


class Node:
    """A pool with what a test looks at."""

    def __init__(self, peer_id, transport, limits=None, **hello):
        self.hello = hello_of(peer_id, **hello)
        self.transport = transport
        self.events = EventLog(SystemClock())
        self.lost = []
        self.address = None
        self.pool = Pool(
            peer_id,
            lambda: self.hello,
            transport,
            limits or PoolLimits(),
            SystemClock(),
            seeded_rng("pool", peer_id),
            self.events,
        )
        self.pool.on_lost(lambda peer_id, reason: self.lost.append((peer_id, reason)))

    def knows(self, other):
        self.pool.learn(other.pool.peer_id, [other.address])


@asynccontextmanager
async def running(*nodes, know_each_other=True):
    """Run the pools of `nodes`, listening."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(node.pool.run()) for node in nodes]
        for node in nodes:
            node.address = await node.pool.start_listening("127.0.0.1", 0)
            node.hello = replace(node.hello, listen_port=node.address.port)
        if know_each_other:
            for node in nodes:
                for other in nodes:
                    node.knows(other)
        try:
            yield nodes
        finally:
            for task in tasks:
                task.cancel()


def memory_nodes(letters="ab", **hello):
    net = MemoryNet()
    return [Node(peer(letter), MemoryTransport(net, peer(letter)), **hello) for letter in letters]


async def settle(condition):
    """Let the loop run until something holds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  the condition is not ours to signal
            await asyncio.sleep(0)
