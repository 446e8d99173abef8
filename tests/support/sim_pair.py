"""Two machines and an echo between them, for the simulator's own tests."""

import asyncio
from collections.abc import Awaitable, Callable

from distqatd.net.address import Address
from tests.sim.host import Host
from tests.sim.sim import Sim
from tests.sim.streams import SimStream

PORT = 29700


async def echo(stream: SimStream) -> None:
    """Send back what comes."""
    buffer = memoryview(bytearray(65536))
    while size := await stream.recv_into(buffer):
        await stream.send(buffer[:size])


async def serve(host: Host, on_stream: Callable[[SimStream], Awaitable[None]] = echo) -> None:
    """Listen on PORT."""
    await host.transport.listen("0.0.0.0", PORT, on_stream)


async def dial(source: Host, target: Host, timeout_s: float = 5.0) -> SimStream:
    """Connect to PORT of another machine."""
    expect = target.identity.peer_id
    return await source.transport.dial(Address(target.ip, PORT), expect=expect, timeout_s=timeout_s)


async def read(stream: SimStream, size: int) -> bytes:
    """Read exactly `size` bytes."""
    data, buffer = b"", memoryview(bytearray(65536))
    while len(data) < size:
        count = await stream.recv_into(buffer[: size - len(data)])
        assert count
        data += buffer[:count]
    return data


async def pair(sim: Sim) -> tuple[Host, Host, SimStream]:
    """Return a client, a server that echoes, and a stream to it."""
    client, server = sim.host(), sim.host()
    server.start(serve)
    await asyncio.sleep(0)
    return client, server, await dial(client, server)
