"""Simulated UDP: lost, doubled, reordered, never answered by a machine that is not there."""

import asyncio
from typing import Any

from tests.sim.host import Host
from tests.sim.network import Network

Endpoint = tuple[str, int]


class SimDatagramTransport(asyncio.DatagramTransport):
    """One UDP socket."""

    def __init__(
        self, network: Network, host: Host, port: int, protocol: asyncio.DatagramProtocol
    ) -> None:
        super().__init__({"sockname": (host.ip, port)})
        self._network = network
        self._address = (host.ip, port)
        self._protocol = protocol
        self._context = host.context()
        self._closing = False
        self._sockets = host.sockets
        self._sockets[self] = None
        network.endpoints[self._address] = self

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Send a datagram; whether and when it arrives is up to the weather."""
        if self._closing:
            return
        network, weather = self._network, self._network.weather
        target: Endpoint = (addr[0], addr[1])
        network.counts["datagrams sent"] += 1
        if weather.loss and network.rng.random() < weather.loss:
            network.counts["datagrams lost"] += 1
            return
        self._throw(bytes(data), target)
        if weather.duplication and network.rng.random() < weather.duplication:
            network.counts["datagrams doubled"] += 1
            self._throw(bytes(data), target)

    def _throw(self, data: bytes, target: Endpoint) -> None:
        network, weather = self._network, self._network.weather
        delay_s = network.delay_s(self._address[0], target[0])
        if weather.reordering and network.rng.random() < weather.reordering:
            delay_s += network.rng.uniform(0, weather.reordering_s)
        network.loop.call_later(
            delay_s, _land, network, self._address, target, data, context=network.context
        )

    def receive(self, data: bytes, source: Endpoint) -> None:
        """Hand a datagram to the protocol, on this socket's machine."""
        self._context.run(self._protocol.datagram_received, data, source)

    def abort(self) -> None:
        """Close at once."""
        self.close()

    def close(self) -> None:
        """Close; the protocol is told in the next loop iteration."""
        if self._closing:
            return
        self._closing = True
        self._sockets.pop(self, None)
        self._network.endpoints.pop(self._address, None)
        self._network.loop.call_soon(self._protocol.connection_lost, None)

    def is_closing(self) -> bool:
        """Return whether it was closed."""
        return self._closing


def _land(network: Network, source: Endpoint, target: Endpoint, data: bytes) -> None:
    endpoint = network.endpoints.get(target)
    if endpoint is None or network.is_cut(source[0], target[0]):
        network.counts["datagrams lost"] += 1
        return
    network.record("datagram", f"{source[0]}:{source[1]}>{target[0]}:{target[1]}", data)
    endpoint.receive(data, source)
