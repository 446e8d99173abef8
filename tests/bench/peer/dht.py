"""Many nodes of hivemind's DHT in one process; each has a daemon process of its own (p2pd).

Caching of what was stored or found is off, as in ours: a get asks the network.
"""

import asyncio
import json
import os
import random
import sys
import time
import uuid

os.environ.setdefault("HIVEMIND_LOGLEVEL", "ERROR")

from hivemind.dht.node import DHTNode
from hivemind.utils import get_dht_time

NO_CACHE = {
    "cache_locally": False,
    "cache_nearest": 0,
    "cache_on_store": False,
    "reuse_get_requests": False,
    "cache_refresh_before_expiry": 0,
}


def say(**fields):
    print(json.dumps(fields), flush=True)


def rss_bytes(pid):
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tree_rss_bytes():
    pids = [os.getpid()]
    for task in os.listdir(f"/proc/{os.getpid()}/task"):
        with open(f"/proc/{os.getpid()}/task/{task}/children", encoding="ascii") as file:
            pids += map(int, file.read().split())
    return sum(map(rss_bytes, pids))


class Nodes:
    def __init__(self):
        self.rng = random.Random(0)
        self.nodes, self.keys = [], []

    async def grow(self, count):
        before, began = tree_rss_bytes(), time.perf_counter()
        for _ in range(count):
            known = self.rng.sample(self.nodes, min(3, len(self.nodes)))
            maddrs = [m for node in known for m in await node.get_visible_maddrs()]
            self.nodes.append(
                await DHTNode.create(initial_peers=maddrs, startup_timeout=60, **NO_CACHE)
            )
        took = time.perf_counter() - began
        kb = (tree_rss_bytes() - before) / 1024 / count
        return {"kb_per_node": kb, "seconds": took, "p50_peers": 0}

    async def store(self, count):
        times, failed, self.keys = [], 0, []
        for _ in range(count):
            key, who = uuid.uuid4().hex, self.rng.randrange(len(self.nodes))
            value = {"pad": "x" * 200}
            began = time.perf_counter()
            failed += not await self.nodes[who].store(key, value, get_dht_time() + 600)
            times.append(time.perf_counter() - began)
            self.keys.append((key, who))
        return {"seconds": times, "failed": failed}

    async def get(self):
        times, failed = [], 0
        for key, stored_by in self.keys:
            who = (stored_by + self.rng.randrange(1, len(self.nodes))) % len(self.nodes)
            began = time.perf_counter()
            failed += await self.nodes[who].get(key) is None
            times.append(time.perf_counter() - began)
        return {"seconds": times, "failed": failed}


async def main():
    nodes = Nodes()
    say(ready=True)
    while line := await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline):
        request = json.loads(line)
        say(**await getattr(nodes, request.pop("do"))(**request))
    await asyncio.gather(*[node.shutdown() for node in nodes.nodes])


asyncio.run(main())
