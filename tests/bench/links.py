"""Pools of two processes on loopback that know each other, as daemons have them."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache

import uvloop

from distqatd.base.clock import SystemClock
from distqatd.base.events import EventLog
from distqatd.base.ids import PeerId
from distqatd.base.rng import seeded_rng, system_rng
from distqatd.identity.keys import Identity
from distqatd.identity.swarm import secret_swarm
from distqatd.identity.tls import TlsContexts, contexts
from distqatd.net.address import Address
from distqatd.net.meter import Meter
from distqatd.net.pool import Pool, PoolLimits
from distqatd.net.rpc import Hello
from distqatd.net.tcp import TcpTransport

SERVER = "server"
CLIENT = "client"
_SWARM = secret_swarm("bench", b"b" * 32)


def peer_id(name: str) -> PeerId:
    """Return the peer id of an end; the same in every process."""
    return _identity(name).peer_id


def tls(name: str) -> TlsContexts:
    """Return the TLS contexts of an end, also for the plain `ssl` reference."""
    return contexts(_identity(name), _SWARM)


@cache  # making keys is slow, and calls name their peer
def _identity(name: str) -> Identity:
    return Identity.generate(seeded_rng("bench", name))


@contextmanager
def loop() -> Iterator[asyncio.Runner]:
    """Run on the event loop that daemons run on."""
    logging.disable()  # links that end when a bench does are no news
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@asynccontextmanager
async def running_pool(
    name: str,
    *,
    secure: bool,
    host: str = "127.0.0.1",
    boot_epoch: int = 1,
    meter: Meter | None = None,
) -> AsyncIterator[tuple[Pool, Address]]:
    """Run a pool that listens on a free port; `boot_epoch` is new where an end restarts."""
    own = peer_id(name)
    transport = TcpTransport(tls(name)) if secure else TcpTransport.plain(own)
    transport.meter = meter or transport.meter
    clock, rng = SystemClock(), system_rng()

    def hello() -> Hello:
        return Hello(own, _SWARM.swarm_id, "", "", (), (), boot_epoch, 1, 0)

    pool = Pool(own, hello, transport, PoolLimits(), clock, rng, EventLog(clock))
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(pool.run())
        try:
            yield pool, await pool.start_listening(host, 0)
        finally:
            await pool.close()
            await running


async def parent_is_gone() -> None:
    """Wait until the parent closes our standard input."""
    gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, gone.set)
    await gone.wait()
    asyncio.get_running_loop().remove_reader(0)
