"""Tensors one way and small requests, through our calls and through bare blocking sockets.

Two processes on loopback for each. A call moves one tensor from the sender's memory into memory
that the receiver names, and is answered; as many are under way at once as make 4 MiB, at least
two. The reference sends the same tensors without any protocol, acknowledged once at the end, from
and into as many buffers.
"""

import asyncio
import socket
import time
from contextlib import AsyncExitStack, ExitStack

from distqatd.net.address import Address
from distqatd.net.pool import Pool
from distqatd.wire.payload import Message, TensorSpec, WireTensor
from tests.bench import children, links, raw
from tests.bench.ends.transport import ECHO, PUT
from tests.bench.measure import cpu_s, p50, p95
from tests.bench.report import Report

MIB = 1 << 20
SIZES_MIB = (1, 16, 64)
PINGS = 300

REFERENCE = {"plain": "raw", "tls": "ssl"}

Sources = list[memoryview]


class Ours:
    """Our pool, with a link to the process at the other end."""

    def __init__(self, pool: Pool, server_pid: int) -> None:
        self._pool = pool
        self.server_pid = server_pid

    async def stream(self, sources: Sources, count: int) -> None:
        left = iter(range(count))

        async def sender(slot: int, data: memoryview) -> None:
            spec = TensorSpec(str(slot), "uint8", (len(data),), len(data))
            message = Message({}, (WireTensor(spec, data),))
            for _ in left:
                await self._pool.call(links.peer_id(links.SERVER), PUT, message, timeout_s=60)

        async with asyncio.TaskGroup() as tasks:
            for slot, data in enumerate(sources):
                tasks.create_task(sender(slot, data))

    async def ping(self, data: memoryview) -> None:
        message = Message({"data": bytes(data)})
        await self._pool.call(links.peer_id(links.SERVER), ECHO, message, timeout_s=60)


class Bare:
    """A blocking socket; it blocks our loop, too, which has nothing else to do meanwhile."""

    def __init__(self, sock: socket.socket, server_pid: int) -> None:
        self._sock = sock
        self.server_pid = server_pid

    async def stream(self, sources: Sources, count: int) -> None:
        raw.stream(self._sock, sources, count)

    async def ping(self, data: memoryview) -> None:
        raw.ping_pong(self._sock, data)


class Hivemind:
    """hivemind's p2p between two processes of its own."""

    def __init__(self, child: children.Child) -> None:
        self._child = child

    def stream(self, num_bytes: int, count: int) -> float:
        return float(self._child.ask("stream", num_bytes=num_bytes, count=count)["seconds"])

    def pings(self, num_bytes: int, count: int) -> list[float]:
        return list(self._child.ask("ping", num_bytes=num_bytes, count=count)["seconds"])


End = Ours | Bare


def run(report: Report, *, quick: bool, peer_python: str | None) -> None:
    """Measure everything and fill the report."""
    with links.loop() as runner, ExitStack() as stack:
        peer = None
        if peer_python is not None:
            peer = Hivemind(stack.enter_context(children.peers("transport", peer_python)))
        runner.run(_run(report, stack, peer, quick=quick))


async def _run(report: Report, stack: ExitStack, peer: Hivemind | None, *, quick: bool) -> None:
    sizes = (1,) if quick else SIZES_MIB
    slot_bytes = max(sizes) * MIB
    async with AsyncExitStack() as links_up:
        ends: dict[str, End] = {}
        for kind in ("raw", "ssl"):
            ends[kind] = _bare(stack, kind, slot_bytes)
        for kind in ("plain", "tls"):
            ends[kind] = await _ours(stack, links_up, kind, slot_bytes)
        for size in sizes:
            await _streams(report, ends, peer, size, quick=quick)
        await _pings(report, ends, peer, quick=quick)


def _bare(stack: ExitStack, kind: str, slot_bytes: int) -> Bare:
    child = stack.enter_context(children.ours("transport", kind, str(slot_bytes)))
    context = links.tls(links.CLIENT).client if kind == "ssl" else None
    sock = stack.enter_context(raw.connect(child.ready["port"], context))
    return Bare(sock, child.pid)


async def _ours(stack: ExitStack, links_up: AsyncExitStack, kind: str, slot_bytes: int) -> Ours:
    child = stack.enter_context(children.ours("transport", kind, str(slot_bytes)))
    pool, _ = await links_up.enter_async_context(
        links.running_pool(links.CLIENT, secure=kind == "tls")
    )
    pool.learn(links.peer_id(links.SERVER), [Address("127.0.0.1", child.ready["port"])])
    return Ours(pool, child.pid)


async def _streams(
    report: Report, ends: dict[str, End], peer: Hivemind | None, size: int, *, quick: bool
) -> None:
    """Measure all ends in turn, again and again: what disturbs one disturbs all."""
    num_slots = max(raw.MOST_SLOTS // size, 2)
    sources = [memoryview(bytearray(size * MIB)) for _ in range(num_slots)]
    count = 8 if quick else max(256 // size, 8)
    repetitions = 2 if quick else 9
    speeds: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    for _ in range(repetitions):
        for kind, end in ends.items():
            cpu_began = time.process_time() + cpu_s(end.server_pid)
            began = time.perf_counter()
            await end.stream(sources, count)
            mib = size * count
            speeds.setdefault(kind, []).append(mib / (time.perf_counter() - began))
            spent = time.process_time() + cpu_s(end.server_pid) - cpu_began
            cpu.setdefault(kind, []).append(1024 * spent / mib)
        if peer is not None:
            few = max(count // 8, 2)  # it is that much slower
            speeds.setdefault("hivemind", []).append(size * few / peer.stream(size * MIB, few))
    what = f"stream of {size} MiB tensors"
    for kind, values in speeds.items():
        numbers = {"best_mib_per_s": max(values), "p50_mib_per_s": p50(values)}
        report.row(what, kind, **numbers, cpu_s_per_gib=p50(cpu.get(kind, [0.0])))
    best = {kind: max(values) for kind, values in speeds.items()}
    for kind, reference in REFERENCE.items():
        report.ratio(f"{kind}_{size}mib_vs_{reference}", best[kind] / best[reference])
    if peer is not None:
        report.ratio(f"tls_{size}mib_vs_hivemind", best["tls"] / best["hivemind"])


async def _pings(
    report: Report, ends: dict[str, End], peer: Hivemind | None, *, quick: bool
) -> None:
    data = memoryview(bytearray(1024))
    repetitions, pings = (2, 20) if quick else (9, PINGS)
    times: dict[str, list[float]] = {}
    for _ in range(repetitions):
        for kind, end in ends.items():
            for _ in range(pings):
                began = time.perf_counter()
                await end.ping(data)
                times.setdefault(kind, []).append(time.perf_counter() - began)
        if peer is not None:
            times.setdefault("hivemind", []).extend(peer.pings(len(data), pings // 3))
    for kind, values in times.items():
        numbers = {"p50_us": 1e6 * p50(values), "p95_us": 1e6 * p95(values)}
        report.row("round trip of 1 KiB each way", kind, **numbers)
    median = {kind: p50(values) for kind, values in times.items()}
    for kind, reference in REFERENCE.items():
        report.ratio(f"rtt_1kib_{kind}_vs_{reference}", median[kind] / median[reference])
    if peer is not None:
        report.ratio("rtt_1kib_tls_vs_hivemind", median["tls"] / median["hivemind"])
