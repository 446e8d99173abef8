"""The DHT on real UDP sockets of this machine, on both event loops."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from distqatd.base.clock import SystemClock
from distqatd.base.events import EventLog
from distqatd.base.rng import system_rng
from distqatd.dht.node import Dht
from distqatd.dht.protocol import RECEIVE_BUFFER_BYTES
from distqatd.identity.keys import Identity
from distqatd.net.address import Address

pytestmark = pytest.mark.integration

KEY = b"k" * 32


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")


async def datagrams(
    host: str, port: int, protocol: asyncio.DatagramProtocol
) -> asyncio.DatagramTransport:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: protocol, local_addr=(host, port))
    return transport


@asynccontextmanager
async def nodes(*hosts: str, key: bytes = KEY) -> AsyncIterator[list[Dht]]:
    """Run one node per address, each joining the first."""
    clock, rng = SystemClock(), system_rng()
    made = [Dht(Identity.generate(rng), key, datagrams, clock, rng, EventLog(clock)) for _ in hosts]
    async with asyncio.TaskGroup() as tasks:
        running = []
        for dht, host in zip(made, hosts, strict=True):
            await dht.start(host, 0)
            running.append(tasks.create_task(dht.run()))
        yield made
        for task in running:
            task.cancel()
        await asyncio.wait(running)
        for dht in made:
            await dht.stop()


def address(dht: Dht, host: str) -> Address:
    return Address(host, dht._server.transport.get_extra_info("sockname")[1])


def run_on(loop_factory: Callable[[], Any], scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            await scenario()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


both_loops = pytest.mark.parametrize(
    "loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


@both_loops
@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
def test_records_travel_over_one_family(loop_factory: Any, host: str) -> None:
    async def scenario() -> None:
        async with nodes(host, host, host) as (one, two, three):
            for dht in (two, three):
                assert await dht.bootstrap([address(one, host)]) == 1
            assert await two.store("k", "s", b"v", ttl_s=60) == 3
            assert [record.value for record in await three.get("k")] == [b"v"]
            assert [dht.num_peers for dht in (one, two, three)] == [2, 2, 2]

    run_on(loop_factory, scenario)


@both_loops
@needs_ipv6
def test_a_dual_stack_node_serves_both_families_and_names_ipv4_peers_as_ipv4(
    loop_factory: Any,
) -> None:
    async def scenario() -> None:
        async with nodes("::", "127.0.0.1", "::1", "127.0.0.1") as (both, four, six, other):
            await four.bootstrap([address(both, "127.0.0.1")])
            await other.bootstrap([address(both, "127.0.0.1")])
            await six.bootstrap([address(both, "::1")])
            ips = {contact.ip for contact in both._server.protocol.router}
            assert ips == {"127.0.0.1", "::1"}
            await six.store("k", "s", b"v", ttl_s=60)
            for dht in (both, four, other):
                assert [record.value for record in await dht.get("k")] == [b"v"]
            assert other.num_peers == 2  # the IPv6 node cannot be sent to from here
            assert six.num_peers == 1

    run_on(loop_factory, scenario)


@both_loops
def test_another_swarm_and_an_empty_port_are_reported(loop_factory: Any) -> None:
    async def scenario() -> None:
        async with nodes("127.0.0.1") as (one,), nodes("127.0.0.1", key=b"x" * 32) as (stranger,):
            targets = [address(stranger, "127.0.0.1"), Address("127.0.0.1", 9)]
            assert await one.bootstrap(targets) == 0
            assert [peer.address for peer in one.unreachable] == targets
            assert stranger.num_peers == 0

    run_on(loop_factory, scenario)


@both_loops
def test_the_receive_buffer_is_raised(loop_factory: Any) -> None:
    async def scenario() -> None:
        async with nodes("127.0.0.1") as (one,):
            udp = one._server.transport.get_extra_info("socket")
            limit = _kernel_limit()
            wanted = min(RECEIVE_BUFFER_BYTES, limit)
            assert udp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= wanted

    run_on(loop_factory, scenario)


def _kernel_limit() -> int:
    with open("/proc/sys/net/core/rmem_max", encoding="ascii") as file:
        return int(file.read())
