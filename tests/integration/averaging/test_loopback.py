"""Rounds and state transfer between real pools, over TLS on loopback, with compute threads."""

import asyncio

import pytest
import torch

from distqatd.averaging.averager import Averager
from distqatd.averaging.records import Committed
from distqatd.averaging.roster import Member
from distqatd.averaging.state import Donors, fetch_state
from distqatd.base.clock import SystemClock
from distqatd.base.errors import RoundAborted
from distqatd.base.events import EventLog
from distqatd.base.ids import make_uid
from distqatd.base.rng import seeded_rng, system_rng
from distqatd.compute.executor import DeviceExecutor
from distqatd.compute.results import Snapshot
from distqatd.config.sections import DilocoConfig
from distqatd.identity.keys import Identity
from distqatd.identity.swarm import open_swarm
from distqatd.identity.tls import contexts
from distqatd.net.pool import Pool, PoolLimits
from distqatd.net.rpc import Hello
from distqatd.net.tcp import TcpTransport
from distqatd.optim.codecs import codec as find_codec
from distqatd.optim.digest import digest
from tests.support.averaging_swarm import Gift
from tests.support.memory_disk import MemoryDisk

pytestmark = pytest.mark.integration

SIZE = 2_000_003  # 8 MB, so that every slice has several chunks


class Peer:
    """A daemon's network, averager and donor side for one expert."""

    def __init__(self, index: int, **diloco: object) -> None:
        self.uid = make_uid("tail", index)
        identity = Identity.generate(seeded_rng("averaging", index))
        self.peer_id = identity.peer_id
        hello = Hello(self.peer_id, "s", "", "", ("expert",), (), 1, 1, 0)
        clock = SystemClock()
        self.events = EventLog(clock)
        transport = TcpTransport(contexts(identity, open_swarm("averaging")))
        self.pool = Pool(
            self.peer_id,
            lambda: hello,
            transport,
            PoolLimits(),
            clock,
            system_rng(),
            self.events,
        )
        self.executor = DeviceExecutor("test", 1)
        config = DilocoConfig.model_validate({"averaging_timeout": 20.0, **diloco})
        self.averager = Averager(
            self.pool, self.executor, config, clock, system_rng(), self.events, MemoryDisk()
        )
        self.donors = Donors(self.pool, self.executor)


class Peers:
    """Some peers that all know each other."""

    def __init__(self, num: int, **diloco: object) -> None:
        self.all = [Peer(index, **diloco) for index in range(num)]
        self._pools: list[asyncio.Task[None]] = []
        self._averagers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> list[Peer]:
        loop = asyncio.get_running_loop()
        addresses = []
        for peer in self.all:
            self._pools.append(loop.create_task(peer.pool.run()))
            self._averagers.append(loop.create_task(peer.averager.run()))
            await asyncio.sleep(0)
            addresses.append(await peer.pool.start_listening("127.0.0.1", 0))
            peer.averager.attach(peer.uid, "tail", self._roster)
        for peer in self.all:
            for other, address in zip(self.all, addresses, strict=True):
                if other is not peer:
                    peer.pool.learn(other.peer_id, [address])
        return self.all

    async def __aexit__(self, *_: object) -> None:
        for task in self._averagers:
            task.cancel()
        for peer in self.all:
            await peer.pool.close()
        await asyncio.wait([*self._pools, *self._averagers])
        for peer in self.all:
            peer.executor.close()

    def _roster(self) -> tuple[Member, ...]:
        return tuple(Member(peer.uid, peer.peer_id, 0, "anchor") for peer in self.all)


def gift(index: int) -> Gift:
    values = torch.randn(SIZE, generator=torch.Generator().manual_seed(index))
    return Gift(values, samples=index + 1)


async def attempt(peer: Peer, own: Gift) -> Committed | RoundAborted:
    try:
        return await peer.averager.round(peer.uid, own)
    except RoundAborted as error:
        return error


async def attempt_all(peers: list[Peer], gifts: list[Gift]) -> list[Committed | RoundAborted]:
    async with asyncio.TaskGroup() as tasks:
        rounds = [
            tasks.create_task(attempt(peer, own)) for peer, own in zip(peers, gifts, strict=True)
        ]
    return [task.result() for task in rounds]


@pytest.mark.parametrize("codec", ["fp32", "fp16", "bf16", "int8", "int4"])
async def test_three_replicas_commit_the_same_bits(codec: str) -> None:
    gifts = [gift(index) for index in range(3)]
    mean = torch.zeros(SIZE)
    for own in gifts:
        mean += own.pseudo_gradient * (own.samples / 6)
    async with Peers(3, codec=codec) as peers:
        outcomes = await attempt_all(peers, gifts)
    assert all(isinstance(outcome, Committed) for outcome in outcomes), outcomes
    assert len({outcome.digest for outcome in outcomes}) == 1
    if codec == "fp32":
        assert torch.equal(outcomes[0].mean, mean)
    else:
        # Encoded twice: on the way to the owner, and as the mean.
        largest = 2 * max(float(find_codec(codec).bound(g.pseudo_gradient).max()) for g in gifts)
        assert float((outcomes[0].mean - mean).abs().max()) <= largest
    sent = sum(outcome.bytes_sent for outcome in outcomes)
    assert sent == pytest.approx(4 * find_codec(codec).num_bytes(SIZE), rel=0.001)


@pytest.mark.parametrize("codec", ["fp32", "int8"])
async def test_a_robust_round_commits_the_same_bits_and_bounds_a_contribution(codec: str) -> None:
    gifts = [Gift(gift(0).pseudo_gradient + gift(index).pseudo_gradient / 9) for index in range(4)]
    honest = sum(own.pseudo_gradient for own in gifts[:3]) / 3
    gifts[3].pseudo_gradient *= -1000
    async with Peers(4, codec=codec, robust="centered_clip") as peers:
        outcomes = await attempt_all(peers, gifts)
        sent = [peer.averager.rounds[-1].bytes_sent for peer in peers]
    assert all(isinstance(outcome, Committed) for outcome in outcomes), outcomes
    assert len({outcome.digest for outcome in outcomes}) == 1
    off = float((outcomes[0].mean - honest).norm() / honest.norm())
    assert off < 0.5, "the mean itself would be 250 times as long, and point away"
    assert max(sent) < 1.05 * 2 * (3 / 4) * find_codec(codec).num_bytes(SIZE)


async def test_when_a_member_gives_up_mid_round_the_others_average_again_without_it() -> None:
    async with Peers(3) as peers:
        victim = peers[2]
        exchanging = asyncio.Event()
        call = victim.pool.call

        async def call_and_tell(peer, method, message, **options):
            if method == "averaging.chunk":
                exchanging.set()
            return await call(peer, method, message, **options)

        victim.pool.call = call_and_tell
        began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as tasks:
            rounds = [
                tasks.create_task(attempt(peer, gift(index))) for index, peer in enumerate(peers)
            ]
            await exchanging.wait()
            rounds[2].cancel()
        took_s = asyncio.get_running_loop().time() - began
        outcomes = [task.result() for task in rounds[:2]]
    assert all(isinstance(outcome, Committed) for outcome in outcomes), outcomes
    assert outcomes[0].digest == outcomes[1].digest
    assert [o.members for o in outcomes] == [(peers[0].uid, peers[1].uid)] * 2
    again = [e for peer in peers[:2] for e in peer.events.since() if e.kind == "round.again"]
    assert any(victim.uid in str(event.fields["reason"]) for event in again)
    assert took_s < 15, "this is noticed at once, not after the timeout"


async def test_a_joiner_gets_the_state_from_two_donors() -> None:
    tensors = {"anchor": torch.randn(SIZE), "momentum": torch.randn(SIZE)}
    held = Snapshot(4, digest(tensors["anchor"]), "layout", tensors, {"int_buffers": {}})
    async with Peers(3) as peers:
        sources = []
        for donor in peers[:2]:
            donor.donors.attach(donor.uid, lambda: held)
            sources.append((donor.uid, donor.peer_id))
        joiner = peers[2]
        found = await fetch_state(joiner.pool, sources, joiner.events, joiner.executor)
    assert found.outer_step == 4
    assert all(torch.equal(found.tensors[name], tensors[name]) for name in tensors)
