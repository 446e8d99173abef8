"""One member of the all-reduce bench: our butterfly over plain or TLS links, or gloo.

Times are of the machine's monotonic clock, which all processes share: a round lasts from the
first member's begin to the last one's end.
"""

import sys
import time
from contextlib import AsyncExitStack
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from distqatd.averaging.bandwidth import Bandwidth
from distqatd.averaging.butterfly import Butterfly
from distqatd.averaging.memory import ChunkMemory
from distqatd.averaging.messages import CHUNK, Ready
from distqatd.averaging.packing import Packing
from distqatd.averaging.plan import Plan, Terms, make_plan
from distqatd.averaging.slicing import MAX_CHUNK_BYTES
from distqatd.base.ids import make_uid
from distqatd.compute.executor import DeviceExecutor
from distqatd.net.address import Address
from distqatd.net.meter import Meter
from distqatd.net.pool import Pool
from distqatd.net.rpc import Caller
from distqatd.optim.codecs import codec as find_codec
from distqatd.wire.payload import Message
from tests.bench import links
from tests.bench.children import say, serve_on_loop

TIMEOUT_S = 120.0
KINDS = ("plain", "tls")


class End:
    """One member; its values stay the same over all rounds."""

    def __init__(
        self, rank: int, num: int, num_values: int, pools: dict[str, Pool], meters: dict[str, Meter]
    ) -> None:
        self._rank, self._num, self._pools = rank, num, pools
        self._values = torch.randn(num_values, generator=torch.Generator().manual_seed(rank))
        self._executor = DeviceExecutor("bench", 1)
        self._fly: Butterfly | None = None
        self._plan: Plan | None = None
        self._bytes_before = 0
        self._mean = torch.zeros(num_values)  # as gloo, into memory that is there
        self._memory = ChunkMemory()
        self._lines = {kind: Bandwidth(meter) for kind, meter in meters.items()}
        for pool in pools.values():
            limit = MAX_CHUNK_BYTES + (1 << 19)
            pool.serve(CHUNK, self._chunk, max_bytes=limit, sink=self._memory.sink)

    async def meet(self, kind: str, addresses: list[tuple[str, int]]) -> dict[str, Any]:
        """Learn where the others are."""
        for rank, (host, port) in enumerate(addresses):
            if rank != self._rank:
                self._pools[kind].learn(links.peer_id(_name(rank)), [Address(host, port)])
        return {}

    async def plan(
        self, kind: str, codec: str, num_values: int, bandwidths: list[float]
    ) -> dict[str, Any]:
        """Get ready for a round over the first `num_values` of our values."""
        plan = _plan(codec, num_values, bandwidths)
        pool, uid = self._pools[kind], plan.uids[self._rank]
        values = self._values[:num_values]
        self._plan = plan
        self._fly = Butterfly(
            pool,
            self._executor,
            Packing(find_codec(codec)),
            plan,
            uid,
            values,
            self._memory,
            self._mean[:num_values],
        )
        self._bytes_before = _bytes_out(pool)
        return {}

    async def average(self, kind: str) -> dict[str, Any]:
        """Take part in the round that was planned."""
        assert self._fly is not None
        cpu_began, began = time.process_time(), time.monotonic()
        with self._lines[kind].measuring():
            fault = await self._fly.run(TIMEOUT_S)
        ended, cpu_ended = time.monotonic(), time.process_time()
        if fault is not None:
            raise RuntimeError(fault.reason)
        return {"began": began, "ended": ended, "cpu_s": cpu_ended - cpu_began}

    async def sent(self, kind: str) -> dict[str, Any]:
        """Say what went out on our links in the last round, when all have ended it."""
        assert self._fly is not None
        mean = float(self._fly.mean.sum())
        num_bytes = _bytes_out(self._pools[kind]) - self._bytes_before
        return {"bytes": num_bytes, "sum": mean, "bandwidth": self._lines[kind].bytes_per_s}

    async def gloo_join(self, port: int) -> dict[str, Any]:
        """Form a group with the others."""
        where = f"tcp://127.0.0.1:{port}"
        dist.init_process_group("gloo", where, rank=self._rank, world_size=self._num)
        return {}

    async def gloo_average(self, num_values: int) -> dict[str, Any]:
        """Average with gloo, in a tensor that is already there: it works in place."""
        mean: Tensor = self._values[:num_values].clone()
        dist.barrier()
        cpu_began, began = time.process_time(), time.monotonic()
        dist.all_reduce(mean)
        mean /= self._num
        ended, cpu_ended = time.monotonic(), time.process_time()
        return {"began": began, "ended": ended, "cpu_s": cpu_ended - cpu_began}

    async def _chunk(self, _: Caller, message: Message) -> Message:
        assert self._fly is not None
        assert self._plan is not None
        return await self._fly.answer(
            self._plan.index_of(message.body["from"]), message.body, message
        )


def _name(rank: int) -> str:
    return f"member{rank}"


def _bytes_out(pool: Pool) -> int:
    return sum(link.bytes_out for link in pool.links())


def _plan(codec: str, num_values: int, bandwidths: list[float]) -> Plan:
    entries = []
    for rank, bandwidth in enumerate(bandwidths):
        uid, peer = make_uid("bench", rank), links.peer_id(_name(rank))
        entries.append((Ready(uid, "bench", 0, "a", 1, num_values, bandwidth, {}), peer))
    return make_plan("round", entries, Terms(TIMEOUT_S, 1.0, 0.5, codec))


async def run(rank: int, num: int, num_values: int, host: str) -> None:
    async with AsyncExitStack() as stack:
        pools, ports, meters = {}, {}, {}
        for kind in KINDS:
            meters[kind] = Meter()
            pool, address = await stack.enter_async_context(
                links.running_pool(_name(rank), secure=kind == "tls", host=host, meter=meters[kind])
            )
            pools[kind], ports[kind] = pool, address.port
        end = End(rank, num, num_values, pools, meters)
        say(ports=ports)
        await serve_on_loop(
            {
                "meet": end.meet,
                "plan": end.plan,
                "average": end.average,
                "sent": end.sent,
                "gloo_join": end.gloo_join,
                "gloo_average": end.gloo_average,
            }
        )


def main() -> None:
    torch.set_num_threads(1)
    rank, num, num_values = map(int, sys.argv[1:4])
    with links.loop() as runner:
        runner.run(run(rank, num, num_values, sys.argv[4]))


if __name__ == "__main__":
    main()
