import asyncio
import os
import socket
import ssl

import pytest

from distqatd.base.errors import ConnectionClosed, DialError, NetworkError, PortInUse
from distqatd.base.rng import seeded_rng
from distqatd.identity.keys import Identity
from distqatd.identity.swarm import open_swarm
from distqatd.identity.tls import contexts
from distqatd.net.address import Address
from distqatd.net.gate import GateLimits
from distqatd.net.tcp import TcpTransport
from tests.support.loops import on_both_loops

pytestmark = pytest.mark.integration


def identity(name):
    return Identity.generate(seeded_rng("tcp", name))


def transport(name, swarm="s", limits=None):
    return TcpTransport(contexts(identity(name), open_swarm(swarm)), limits)


class Echo:
    """A server that sends back what it gets, and remembers who came."""

    def __init__(self):
        self.peers = []

    async def __call__(self, stream):
        self.peers.append(stream.peer_id)
        buffer = memoryview(bytearray(1 << 16))
        while size := await stream.recv_into(buffer):
            await stream.send(buffer[:size])


async def read(stream, size):
    data = memoryview(bytearray(size))
    done = 0
    while done < size:
        count = await stream.recv_into(data[done:])
        if not count:
            break
        done += count
    return bytes(data[:done])


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
@on_both_loops
async def test_both_sides_learn_who_the_other_is(host):
    echo = Echo()
    listener = await transport("b").listen("::", 0, echo)
    stream = await transport("a").dial(
        Address(host, listener.address.port), expect=identity("b").peer_id, timeout_s=5
    )
    await stream.send(memoryview(b"hello"))
    assert await read(stream, 5) == b"hello"
    assert stream.peer_id == identity("b").peer_id
    assert echo.peers == [identity("a").peer_id]
    await stream.close()
    await listener.close()


@pytest.mark.parametrize(
    "make", [transport, lambda name: TcpTransport.plain(identity(name).peer_id)]
)
@on_both_loops
async def test_megabytes_in_both_directions_at_once_arrive_intact(make):
    listener = await make("b").listen("127.0.0.1", 0, Echo())
    stream = await make("a").dial(listener.address, expect=None, timeout_s=5)
    sent = os.urandom(1 << 20) * 8
    got = b""
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read(stream, len(sent) + 2))
        for offset in range(0, len(sent), 1 << 20):
            await stream.send(memoryview(b""), memoryview(sent)[offset : offset + (1 << 20)])
        await stream.send(memoryview(b"x"), memoryview(b"y"))
    got = reading.result()
    assert got == sent + b"xy"
    stream.abort()
    await listener.close()


@on_both_loops
async def test_a_member_of_another_swarm_is_refused_by_both():
    echo = Echo()
    listener = await transport("b").listen("127.0.0.1", 0, echo)
    with pytest.raises(DialError, match=r"not in our swarm.*compare swarm name and secret"):
        await transport("a", swarm="other").dial(listener.address, expect=None, timeout_s=5)
    assert echo.peers == []
    await listener.close()


@on_both_loops
async def test_a_stranger_without_a_certificate_gets_no_byte():
    echo = Echo()
    listener = await transport("b").listen("127.0.0.1", 0, echo)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.address.port, ssl=context)
    writer.write(b"x" * 100)
    data = b""
    try:
        async with asyncio.timeout(5):
            data = await reader.read(100)
    except (ssl.SSLError, ConnectionError):
        pass
    assert data == b""
    assert echo.peers == []
    writer.transport.abort()
    await listener.close()


@on_both_loops
async def test_an_unexpected_peer_is_not_talked_to():
    listener = await transport("b").listen("127.0.0.1", 0, Echo())
    with pytest.raises(DialError, match=f"is peer {identity('b').peer_id}, not x"):
        await transport("a").dial(listener.address, expect="x", timeout_s=5)
    await listener.close()


@on_both_loops
async def test_nobody_there_and_silence_are_dial_errors():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(DialError, match="did not answer within"):
            await transport("a").dial(Address("127.0.0.1", port), expect=None, timeout_s=0.2)
    with pytest.raises(DialError, match=r"127\.0\.0\.1"):
        await transport("a").dial(Address("127.0.0.1", port), expect=None, timeout_s=5)


@on_both_loops
async def test_whoever_says_nothing_is_dropped_and_frees_its_place():
    limits = GateLimits(max_per_address=2, handshake_timeout_s=0.3)
    listener = await transport("b", limits=limits).listen("127.0.0.1", 0, Echo())
    port = listener.address.port
    floods = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
    async with asyncio.timeout(5):
        with pytest.raises(ConnectionError):
            # The third and later are reset before any handshake.
            await floods[4][0].readexactly(1) or None
        for reader, _ in floods[:2]:
            assert await reader.read() == b""
    stream = await transport("a").dial(listener.address, expect=None, timeout_s=5)
    stream.abort()
    for _, writer in floods:
        writer.transport.abort()
    await listener.close()


@on_both_loops
async def test_a_taken_port_is_named_with_its_holder():
    listener = await transport("b").listen("127.0.0.1", 0, Echo())
    port = listener.address.port
    with pytest.raises(
        PortInUse, match=f"TCP port {port} is in use by .*pid {os.getpid()}.*--port"
    ):
        await transport("a").listen("127.0.0.1", port, Echo())
    await listener.close()


@on_both_loops
async def test_a_port_one_may_not_use_is_no_mystery():
    with pytest.raises(NetworkError, match=r"cannot use port 0 of 192\.0\.2\.1"):
        await transport("a").listen("192.0.2.1", 0, Echo())


@on_both_loops
async def test_datagrams_share_the_port_number():
    class Recorder(asyncio.DatagramProtocol):
        def __init__(self):
            self.got = asyncio.Queue()

        def datagram_received(self, data, addr):
            self.got.put_nowait(data)

    listener = await transport("b").listen("127.0.0.1", 0, Echo())
    recorder = Recorder()
    port = listener.address.port
    there = await transport("b").datagrams("127.0.0.1", port, recorder)
    here = await transport("a").datagrams("127.0.0.1", 0, asyncio.DatagramProtocol())
    here.sendto(b"ping", ("127.0.0.1", port))
    async with asyncio.timeout(5):
        assert await recorder.got.get() == b"ping"
    with pytest.raises(PortInUse, match="UDP port"):
        await transport("b").datagrams("127.0.0.1", port, Recorder())
    there.close()
    here.close()
    await listener.close()
    await asyncio.sleep(0)


@on_both_loops
async def test_aborting_wakes_reader_and_writer():
    async def swallow(stream):
        await asyncio.Event().wait()

    listener = await transport("b").listen("127.0.0.1", 0, swallow)
    stream = await transport("a").dial(listener.address, expect=None, timeout_s=5)

    async def fails(work):
        with pytest.raises(ConnectionClosed):
            await work

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(fails(stream.recv_into(memoryview(bytearray(10)))))
        group.create_task(fails(stream.send(memoryview(bytes(64 << 20)))))
        await asyncio.sleep(0.05)
        stream.abort()
    await listener.close()


@on_both_loops
async def test_closing_a_listener_ends_its_links():
    listener = await transport("b").listen("127.0.0.1", 0, Echo())
    stream = await transport("a").dial(listener.address, expect=None, timeout_s=5)
    await stream.send(memoryview(b"x"))
    await read(stream, 1)
    await listener.close()
    assert await read(stream, 1) == b""
    stream.abort()


@on_both_loops
async def test_a_cancelled_read_loses_no_bytes():
    listener = await transport("b").listen("127.0.0.1", 0, Echo())
    stream = await transport("a").dial(listener.address, expect=None, timeout_s=5)
    buffer = memoryview(bytearray(10))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await stream.recv_into(buffer)
    await stream.send(memoryview(b"abc"))
    assert await read(stream, 3) == b"abc"
    stream.abort()
    await listener.close()
