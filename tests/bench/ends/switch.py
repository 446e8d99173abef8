"""A switch between network namespaces that gives every port a rate and a delay; needs root.

    python -m tests.bench.ends.switch NAMESPACE=IP,MBIT_PER_S,ONE_WAY_MS ...

Each namespace gets one TUN device. Packets of up to 64 KiB pass in one piece (segmentation
offload), or Python could not keep up. A packet waits for the sender's uplink, travels for both
ends' delays, waits for the receiver's downlink, and is dropped where it would queue for longer than
QUEUE_S: then TCP slows down, as on a real line. Many kernels have no netem, which would do this.
"""

import ctypes
import fcntl
import heapq
import os
import selectors
import struct
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass

from tests.bench.children import say

QUEUE_S = 0.2
LARGEST_PACKET = 70_000
PACKETS_AT_ONCE = 16

_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_TUN, _NO_PACKET_INFO, _VNET_HEADER = 0x0001, 0x1000, 0x4000
_CHECKSUMS_AND_TSO4 = 0x1 | 0x2
_HEADER_BYTES = 10


@dataclass(slots=True)
class Port:
    """One namespace's way out. Times are when its up- and downlink have sent what they hold."""

    namespace: str
    ip: str
    bytes_per_s: float
    one_way_s: float
    fd: int = -1
    up_free_at: float = 0.0
    down_free_at: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Port":
        namespace, rest = text.split("=")
        ip, mbit, ms = rest.split(",")
        return cls(namespace, ip, float(mbit) * 1e6 / 8, float(ms) / 1e3)

    @property
    def key(self) -> bytes:
        return bytes(map(int, self.ip.split(".")))


class Switch:
    """Moves packets; those on the way are ordered by when they are due."""

    def __init__(self, ports: list[Port]) -> None:
        self._by_ip = {port.key: port for port in ports}
        self._selector = selectors.DefaultSelector()
        self._on_the_way: list[tuple[float, int, Port, bytes]] = []
        self._num_packets = 0
        for port in ports:
            self._selector.register(port.fd, selectors.EVENT_READ, port)
        self._selector.register(sys.stdin, selectors.EVENT_READ, None)

    def run(self) -> None:
        """Switch until the parent closes our standard input."""
        while True:
            queue = self._on_the_way
            wait_s = max(0.0, queue[0][0] - time.monotonic()) if queue else None
            for key, _ in self._selector.select(wait_s):
                if key.data is None:
                    return
                self._take(key.data)
            self._deliver()

    def _take(self, port: Port) -> None:
        for _ in range(PACKETS_AT_ONCE):
            try:
                packet = os.read(port.fd, LARGEST_PACKET)
            except BlockingIOError:
                return
            target = self._by_ip.get(packet[_HEADER_BYTES + 16 : _HEADER_BYTES + 20])
            if target is not None and packet[_HEADER_BYTES] >> 4 == 4:
                self._send(port, target, packet)

    def _send(self, port: Port, target: Port, packet: bytes) -> None:
        now, size = time.monotonic(), len(packet) - _HEADER_BYTES
        if port.up_free_at - now > QUEUE_S:
            return
        port.up_free_at = max(port.up_free_at, now) + size / port.bytes_per_s
        there_at = port.up_free_at + port.one_way_s + target.one_way_s
        if target.down_free_at - there_at > QUEUE_S:
            return
        target.down_free_at = max(target.down_free_at, there_at) + size / target.bytes_per_s
        self._num_packets += 1
        heapq.heappush(self._on_the_way, (target.down_free_at, self._num_packets, target, packet))

    def _deliver(self) -> None:
        queue = self._on_the_way
        while queue and queue[0][0] <= time.monotonic():
            _, _, port, packet = heapq.heappop(queue)
            with suppress(OSError):  # its queue is full: dropped, as a line does
                os.write(port.fd, packet)


def plug_in(port: Port) -> None:
    """Make the namespace and its device."""
    libc = ctypes.CDLL(None, use_errno=True)
    _ip("netns", "add", port.namespace)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/var/run/netns/{port.namespace}", os.O_RDONLY)
    _check(libc.setns(there, 0))
    port.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = _TUN | _NO_PACKET_INFO | _VNET_HEADER
    fcntl.ioctl(port.fd, _TUNSETIFF, struct.pack("16sH22x", b"tun0", flags))
    fcntl.ioctl(port.fd, _TUNSETOFFLOAD, _CHECKSUMS_AND_TSO4)
    _check(libc.setns(home, 0))
    os.close(there)
    os.close(home)
    _ip("-n", port.namespace, "addr", "add", f"{port.ip}/24", "dev", "tun0")
    _ip("-n", port.namespace, "link", "set", "tun0", "mtu", "1500", "up", "txqueuelen", "1000")
    _ip("-n", port.namespace, "link", "set", "lo", "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _check(status: int) -> None:
    if status:
        raise OSError(ctypes.get_errno(), "setns")


def main() -> None:
    ports = [Port.parse(text) for text in sys.argv[1:]]
    made: list[Port] = []
    try:
        for port in ports:
            made.append(port)
            plug_in(port)
        say(ready=True)
        Switch(ports).run()
    finally:
        for port in made:
            subprocess.run(["ip", "netns", "del", port.namespace], check=False)


if __name__ == "__main__":
    main()
