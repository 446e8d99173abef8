"""The network between simulated machines: latency, loss, duplication, reordering, partitions.

No bandwidth: a megabyte takes as long as a byte. All chance comes from one generator.
"""

from collections import Counter
from collections.abc import Iterable
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distqatd.base.rng import seeded_rng
from tests.sim.loop import START_S, VirtualLoop
from tests.sim.trace import Trace

if TYPE_CHECKING:
    from tests.sim.datagrams import SimDatagramTransport
    from tests.sim.host import Host
    from tests.sim.streams import SimListener, SimStream

LOOPBACK_S = 0.00005


@dataclass(frozen=True, slots=True)
class Weather:
    """What the network does to traffic.

    Attributes:
        latency_s: lowest and highest one-way delay; each pair of machines draws its own once.
        jitter_s: added to every single delay, uniform from 0.
        loss: share of datagrams that vanish.
        duplication: share of datagrams that arrive twice.
        reordering: share of datagrams held back by up to `reordering_s` more.
        reordering_s: see `reordering`.
    """

    latency_s: tuple[float, float] = (0.005, 0.05)
    jitter_s: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    reordering_s: float = 0.5


class Network:
    """Who is where, who can reach whom, and how long it takes."""

    def __init__(self, loop: VirtualLoop, seed: object, weather: Weather, trace: Trace) -> None:
        self.loop = loop
        self.weather = weather
        self.trace = trace
        self.rng = seeded_rng(seed, "network")
        self.context = Context()
        self.counts: Counter[str] = Counter()
        self.hosts: dict[str, Host] = {}
        self.listeners: dict[tuple[str, int], SimListener] = {}
        self.refusing: set[str] = set()
        self.endpoints: dict[tuple[str, int], SimDatagramTransport] = {}
        self._seed = seed
        self._latency_s: dict[tuple[str, str], float] = {}
        self._cut: dict[tuple[str, str], float] = {}
        self._stalled: dict[SimStream, None] = {}
        self._next_port = 40_000

    def free_port(self) -> int:
        """Return a port that nothing uses, on any machine, for TCP or UDP."""
        self._next_port += 1
        return self._next_port

    # --- delays

    def set_latency(self, one: str, other: str, latency_s: float) -> None:
        """Fix the one-way delay between two machines, both ways."""
        self._latency_s[one, other] = self._latency_s[other, one] = latency_s

    def latency_s(self, source: str, target: str) -> float:
        """Return the one-way delay between two machines, without jitter."""
        known_s = self._latency_s.get((source, target))
        if known_s is not None:
            return known_s
        if source == target:
            return LOOPBACK_S
        first, second = sorted((source, target))
        drawn_s = seeded_rng(self._seed, "link", first, second).uniform(*self.weather.latency_s)
        self.set_latency(source, target, drawn_s)
        return drawn_s

    def delay_s(self, source: str, target: str) -> float:
        """Return how long the next chunk or datagram takes."""
        jitter_s = self.weather.jitter_s
        base_s = self.latency_s(source, target)
        return base_s + self.rng.uniform(0, jitter_s) if jitter_s else base_s

    # --- partitions

    def is_cut(self, source: str, target: str) -> bool:
        """Return whether nothing gets from `source` to `target` now."""
        return (source, target) in self._cut

    def connects(self, one: str, other: str) -> bool:
        """Return whether both directions work."""
        return not self.is_cut(one, other) and not self.is_cut(other, one)

    def cut(self, source: str, target: str) -> None:
        """Let nothing more through from `source` to `target` (this direction alone)."""
        self._cut.setdefault((source, target), self.loop.time())

    def partition(self, group: Iterable[str], others: Iterable[str] | None = None) -> None:
        """Separate `group` from `others` (by default everybody else), both ways.

        Datagrams are lost. Streams stall, as TCP does, until the link heals or an end gives up.
        """
        inside = list(group)
        outside = [ip for ip in self.hosts if ip not in inside] if others is None else list(others)
        for one in inside:
            for other in outside:
                self.cut(one, other)
                self.cut(other, one)

    def heal(self, group: Iterable[str] | None = None) -> None:
        """End all partitions, or those that a machine of `group` is part of."""
        members = None if group is None else set(group)
        for route, since_s in list(self._cut.items()):
            if members is None or members & set(route):
                del self._cut[route]
                self._resume(route, self.loop.time() - since_s)

    def stall(self, stream: "SimStream") -> None:
        """Keep what is on the way to `stream` until its link heals."""
        self._stalled[stream] = None

    def _resume(self, route: tuple[str, str], outage_s: float) -> None:
        """Let stalled streams go on when TCP's retransmission, doubling its wait, comes round."""
        for stream in [each for each in self._stalled if each.route == route]:
            del self._stalled[stream]
            wait_s = self.rng.uniform(0, min(outage_s, 60.0))
            self.loop.call_later(wait_s, stream.arrive, context=self.context)

    def record(self, kind: str, route: str, data: bytes = b"") -> None:
        """Count a delivery and add it to the trace."""
        self.counts[kind] += 1
        self.trace.add(self.loop.time() - START_S, kind, route, data)
