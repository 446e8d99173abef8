"""Forward and backward of an expert in another process, beside the same computed here.

The way of a real step: FORWARD takes the inputs there over TLS, the expert sends its outputs back
to ask for the gradient of the loss, goes backward, and answers with the gradient of the inputs.
Four tensors of batch x hid cross the socket. The caller computes nothing; one thread on each side.
"""

import asyncio
import time
from contextlib import ExitStack

import torch
from torch import Tensor

from distqatd.base.ids import ExpertUid
from distqatd.compute.payload import to_wire, torch_sink
from distqatd.net.address import Address
from distqatd.net.pool import Pool
from distqatd.net.rpc import Caller
from distqatd.pipeline import messages as m
from distqatd.pipeline.links import Link, Parcels
from distqatd.swarm.routes import Hop
from distqatd.wire.payload import Message
from tests.bench import children, ffn, links
from tests.bench.ends.expert import UID
from tests.bench.measure import cpu_s, p50, p95, timed
from tests.bench.report import Report

HID, BATCH = 1024, 512
SESSION = m.SessionId(1, 1)
MOST_PASSES = 100


class Remote:
    """An expert in another process, as the stage before it sees it."""

    def __init__(self, pool: Pool, inputs: Tensor) -> None:
        self._pool = pool
        self._inputs = inputs
        self._gradient = torch.ones_like(inputs)
        self._passes = 0
        pool.serve(m.LOSS, self._loss, max_bytes=1 << 30, sink=torch_sink)

    async def open(self) -> None:
        """Make us its neighbour in a route; every pass is a microbatch of one long step."""
        server = links.peer_id(links.SERVER)
        route = (Hop(ExpertUid("here"), self._pool.peer_id, 1), Hop(UID, server, 1))
        call = m.OpenCall(UID, SESSION, route, MOST_PASSES, loss_at_trainer=True)
        await self._pool.call(server, m.OPEN, Message(call.body()), timeout_s=10)

    async def forward_backward(self) -> Tensor | None:
        """Return the gradient of the inputs."""
        call = m.MicrobatchCall(UID, SESSION, 1, self._passes, 1.0, 0)
        self._passes += 1
        message = Message(call.body(), (to_wire("0", self._inputs),))
        server = links.peer_id(links.SERVER)
        reply = await self._pool.call(server, m.FORWARD, message, timeout_s=60, sink=torch_sink)
        return Link().unpack(Parcels.read(reply), 1)[0]

    async def _loss(self, _: Caller, __: Message) -> Message:
        return Link().pack((self._gradient,)).message({})


class Local:
    """The same in this process: plain torch, nothing of ours."""

    def __init__(self, hid: int, inputs: Tensor) -> None:
        self._module = ffn.FeedForward(hid)
        self._inputs = inputs
        self._gradient = torch.ones_like(inputs)

    def forward_backward(self) -> Tensor | None:
        inputs = self._inputs.detach().requires_grad_()
        self._module(inputs).backward(self._gradient)
        return inputs.grad


def run(report: Report, *, quick: bool, peer_python: str | None) -> None:
    """Measure everything and fill the report."""
    torch.set_num_threads(1)
    hid, batch = (64, 32) if quick else (HID, BATCH)
    with links.loop() as runner, ExitStack() as stack:
        server = stack.enter_context(children.ours("expert", str(hid)))
        peer = None
        if peer_python is not None:
            child = children.peers("expert", peer_python, str(hid), str(batch))
            peer = stack.enter_context(child)
        times = runner.run(_passes(report, server, peer, hid, batch, 3 if quick else 30))
    for who, values in times.items():
        numbers = {"best_ms": 1e3 * min(values), "p50_ms": 1e3 * p50(values)}
        report.row(_what(hid, batch), who, **numbers, p95_ms=1e3 * p95(values))
    report.ratio("fwdbwd_vs_local", min(times["distqat"]) / min(times["local"]))
    if peer is not None:
        ours = min(times["distqat"])
        report.ratio("fwdbwd_vs_hivemind", ours / min(times["hivemind"]))
        vs_local = min(times["hivemind"]) / min(times["hivemind local"])
        report.ratio("hivemind_fwdbwd_vs_its_local", vs_local)


def _what(hid: int, batch: int) -> str:
    return f"forward and backward, hid {hid}, batch {batch}"


async def _passes(
    report: Report,
    server: children.Child,
    peer: children.Child | None,
    hid: int,
    batch: int,
    count: int,
) -> dict[str, list[float]]:
    """Run every way in turn, `count` times; return seconds."""
    inputs = torch.randn((batch, hid), generator=torch.Generator().manual_seed(0))
    local = Local(hid, inputs)
    times: dict[str, list[float]] = {"local": [], "distqat": []}
    cpu: list[float] = []
    async with links.running_pool(links.CLIENT, secure=True) as (pool, _):
        server_address = Address("127.0.0.1", server.ready["port"])
        pool.learn(links.peer_id(links.SERVER), [server_address])
        remote = Remote(pool, inputs)
        await remote.open()
        for index in range(count + 1):
            seconds = timed(local.forward_backward)
            spent_before = time.process_time() + cpu_s(server.pid)
            began = time.perf_counter()
            await remote.forward_backward()
            took = time.perf_counter() - began
            spent = time.process_time() + cpu_s(server.pid) - spent_before
            answers = peer.ask("forward_backward") if peer is not None else {}
            await asyncio.sleep(0)
            if index == 0:
                continue  # the first of each pays for allocations and the link
            times["local"].append(seconds)
            times["distqat"].append(took)
            cpu.append(spent)
            for who, value in answers.items():
                times.setdefault(who, []).append(value)
    report.row("CPU of both processes for it", "distqat", p50_ms=1e3 * p50(cpu))
    return times
