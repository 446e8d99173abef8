"""The network as one life of one machine sees it: `distqatd.net.transport.Transport`."""

import asyncio

from distqatd.base.errors import DialError, NothingListens, PortInUse
from distqatd.base.ids import PeerId
from distqatd.net.address import Address
from distqatd.net.transport import OnStream
from tests.sim.datagrams import SimDatagramTransport
from tests.sim.host import Host
from tests.sim.loop import Life
from tests.sim.network import Network
from tests.sim.streams import SimListener, SimStream, link

SYN_RETRY_S = 1.0


class SimTransport:
    """Makes streams and datagram endpoints; useless once its life has ended."""

    def __init__(self, network: Network, host: Host, life: Life) -> None:
        self._network = network
        self._host = host
        self._life = life

    async def listen(self, host: str, port: int, on_stream: OnStream) -> SimListener:
        """Listen on this machine; `host` is ignored, port 0 picks a free one."""
        self._require_life()
        port = port or self._network.free_port()
        if (self._host.ip, port) in self._network.listeners:
            raise PortInUse(f"port {port} is taken on {self._host.ip}")
        return SimListener(self._network, self._host, port, on_stream)

    async def dial(self, address: Address, *, expect: PeerId | None, timeout_s: float) -> SimStream:
        """Connect: two round trips, refused where nothing listens, silence where nobody is."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._connect(address, expect)
        except TimeoutError as error:
            where = address.host_port()
            raise DialError(f"{where} did not answer within {timeout_s} s") from error

    async def datagrams(
        self, host: str, port: int, protocol: asyncio.DatagramProtocol
    ) -> asyncio.DatagramTransport:
        """Open a datagram endpoint; `host` is ignored, port 0 picks a free one."""
        self._require_life()
        port = port or self._network.free_port()
        if (self._host.ip, port) in self._network.endpoints:
            raise PortInUse(f"UDP port {port} is taken on {self._host.ip}")
        transport = SimDatagramTransport(self._network, self._host, port, protocol)
        protocol.connection_made(transport)
        return transport

    async def _connect(self, address: Address, expect: PeerId | None) -> SimStream:
        source, target = self._host.ip, address.host
        if target in self._network.hosts:
            await asyncio.sleep(4 * self._network.latency_s(source, target))
        while not self._reaches(target):  # noqa: ASYNC110  SYNs really are repeated blindly
            await asyncio.sleep(SYN_RETRY_S)
        listener = self._network.listeners.get((target, address.port))
        if listener is None or target in self._network.refusing:
            raise NothingListens(f"{address.host_port()} refused: nothing listens there")
        self._require_life()
        peer_id = listener.host.identity.peer_id
        if expect not in {None, peer_id}:
            raise DialError(f"{address.host_port()} is peer {peer_id}, not {expect}")
        return link(self._network, self._host, listener)

    def _reaches(self, target: str) -> bool:
        exists = target in self._network.hosts
        return exists and self._network.connects(self._host.ip, target)

    def _require_life(self) -> None:
        if not self._life.alive:
            raise DialError(f"{self._life.name} has crashed")
