"""The pool over real TLS links."""

import asyncio
import ssl

import pytest

from distqatd.base.errors import ConnectionClosed, DialError, Refused
from distqatd.base.rng import seeded_rng
from distqatd.identity.keys import Identity
from distqatd.identity.swarm import open_swarm, secret_swarm
from distqatd.identity.tls import contexts
from distqatd.net.tcp import TcpTransport
from distqatd.wire.payload import Message
from tests.support.links import message_of
from tests.support.loops import on_both_loops
from tests.support.pools import Node, running, settle

pytestmark = pytest.mark.integration

MIB = 1 << 20


def node(name, swarm=None, **hello):
    identity = Identity.generate(seeded_rng("pool tcp", name))
    transport = TcpTransport(contexts(identity, swarm or open_swarm("s")))
    return Node(identity.peer_id, transport, **hello)


def ask(a, b, method="m", message=None, timeout_s=20, **fields):
    return a.pool.call(
        b.pool.peer_id, method, message or Message({}), timeout_s=timeout_s, **fields
    )


async def echo(caller, message):
    return message


@on_both_loops
async def test_a_large_tensor_goes_there_and_back_into_the_sinks():
    a, b = node("a"), node("b")
    data = bytes(range(256)) * (20 * 4096)
    there, here = bytearray(len(data)), bytearray(len(data))
    async with running(a, b):
        b.pool.serve("m", echo, max_bytes=64 * MIB, sink=lambda spec: memoryview(there))
        await ask(a, b, message=message_of(data), sink=lambda spec: memoryview(here))
        assert there == here == data
        [info] = a.pool.links()
        assert info.bytes_out > len(data)
        assert info.bytes_in > len(data)


@on_both_loops
async def test_small_calls_pass_a_bulk_transfer():
    a, b = node("a"), node("b")
    async with running(a, b):
        b.pool.serve("bulk", echo, max_bytes=64 * MIB)
        b.pool.serve("m", echo)
        order = []

        async def note(name, work):
            await work
            order.append(name)

        async with asyncio.TaskGroup() as group:
            group.create_task(note("bulk", ask(a, b, "bulk", message_of(bytes(48 * MIB)))))
            await asyncio.sleep(0.01)
            for number in range(5):
                group.create_task(note(number, ask(a, b, message=Message({"n": number}))))
        assert order[-1] == "bulk"


@on_both_loops
async def test_a_member_of_another_run_is_refused_with_both_names():
    a, b = node("a", run_id="digits"), node("b", run_id="poems")
    async with running(a, b):
        with pytest.raises(Refused, match=r"run id is 'poems' at .* and 'digits' at"):
            await a.pool.dial(b.address, 5)


@on_both_loops
async def test_whoever_has_another_secret_gets_no_link():
    a, b = node("a", secret_swarm("s", bytes(32))), node("b", secret_swarm("s", bytes([1] * 32)))
    async with running(a, b):
        with pytest.raises(DialError, match=r"not in our swarm"):
            await a.pool.dial(b.address, 5)
        assert b.pool.links() == ()


@on_both_loops
async def test_a_server_that_rejects_us_after_our_own_handshake_is_a_dial_error():
    b = node("b")
    stranger = node("a", open_swarm("other"))
    # Accept any server, as an impostor would: our side of the handshake then succeeds.
    client = stranger.transport._security._contexts.client
    client.verify_mode = ssl.CERT_NONE
    async with running(b), running(stranger, know_each_other=False):
        with pytest.raises(DialError, match=r"closed the link before its HELLO|TLS"):
            await stranger.pool.dial(b.address, 5)
        assert b.pool.links() == ()


@on_both_loops
async def test_a_peer_whose_sockets_close_is_lost_at_once():
    a, b = node("a"), node("b")
    async with running(a):
        async with running(b):
            await a.pool.dial(b.address, 5)
            assert len(b.pool.links()) == 1
        await settle(lambda: a.lost)
        with pytest.raises((ConnectionClosed, DialError)):
            await ask(a, b)


@on_both_loops
async def test_simultaneous_dials_over_tcp_leave_one_link():
    a, b = node("a"), node("b")
    async with running(a, b):
        a.pool.serve("m", echo)
        b.pool.serve("m", echo)
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(ask(a, b, message=Message({"n": number})))
                group.create_task(ask(b, a, message=Message({"n": number})))
        await settle(lambda: len(a.pool._links.all()) == len(b.pool._links.all()) == 1)
        assert a.lost == b.lost == []
