"""Calls between daemons' pools while links break, machines restart and the network splits."""

import asyncio
from dataclasses import dataclass, field

from distqatd.base.errors import DistqatError, NetworkError
from distqatd.base.events import EventLog
from distqatd.net.address import Address
from distqatd.net.pool import Pool, PoolLimits
from distqatd.net.rpc import Caller, Hello
from distqatd.wire.payload import Message, TensorSpec, WireTensor
from tests.sim.host import Host
from tests.sim.network import Weather
from tests.sim.registry import scenario
from tests.sim.sim import Sim

PORT = 29700
NUM_PEERS = 4
TIMEOUT_S = 20.0
TROUBLE_S = 60.0
TENSOR_BYTES = 100_000


@dataclass
class Ledger:
    """What all calls of a run did, as an observer above the network knows it."""

    applied: dict[tuple[str, int], int] = field(default_factory=dict)
    answered: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)
    num_calls: int = 0


def _pool(host: Host) -> Pool:
    hello = Hello(host.identity.peer_id, "swarm", "", "", ("expert",), (), host.boots, 1, PORT)
    events = EventLog(host.clock)
    transport = host.transport
    return Pool(
        host.identity.peer_id, lambda: hello, transport, PoolLimits(), host.clock, host.rng, events
    )


class Peer:
    """A machine that serves `add` and calls it on others, again and again."""

    def __init__(self, sim: Sim, ledger: Ledger, host: Host, others: list[Host]) -> None:
        self._sim = sim
        self._ledger = ledger
        self._host = host
        self._others = others

    async def run(self, host: Host) -> None:
        """Serve and call until the machine dies."""
        pool = _pool(host)
        pool.serve("add", self._add, max_bytes=1 << 20)
        for other in self._others:
            pool.learn(other.identity.peer_id, [Address(other.ip, PORT)])
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(pool.run(), name="pool")
            await pool.start_listening("0.0.0.0", PORT)
            tasks.create_task(self._call_others(pool), name="caller")
            tasks.create_task(self._call_others(pool), name="caller")

    async def _add(self, caller: Caller, message: Message) -> Message:
        """Take some time, then apply in one go; killed before that, nothing has happened."""
        await asyncio.sleep(self._host.rng.uniform(0, 0.5))
        key = (self._host.life.name, message.body["id"])
        self._ledger.applied[key] = self._ledger.applied.get(key, 0) + 1
        self._sim.check(self._ledger.applied[key] == 1, f"call {key} was applied twice")
        return Message({"id": message.body["id"]}, message.tensors)

    async def _call_others(self, pool: Pool) -> None:
        while True:
            other = self._host.rng.choice(self._others)
            await self._call(pool, other)
            await asyncio.sleep(self._host.rng.uniform(0, 1))

    async def _call(self, pool: Pool, other: Host) -> None:
        ledger, loop = self._ledger, asyncio.get_running_loop()
        ledger.num_calls += 1
        number, data = ledger.num_calls, self._payload()
        spec = TensorSpec("data", "uint8", (len(data),), len(data))
        message = Message({"id": number}, (WireTensor(spec, memoryview(data)),))
        began_s = loop.time()
        try:
            answer = await pool.call(other.identity.peer_id, "add", message, timeout_s=TIMEOUT_S)
        except NetworkError:
            ledger.failed.add(number)
        except DistqatError as error:
            self._sim.check(False, f"call {number} raised {type(error).__name__}: {error}")
        else:
            self._check_answer(number, data, answer)
        took_s = loop.time() - began_s
        self._sim.check(took_s < TIMEOUT_S + 1, f"call {number} took {took_s:.1f} s")

    def _payload(self) -> bytes:
        is_large = self._host.rng.random() < 0.1
        return self._host.rng.randbytes(TENSOR_BYTES if is_large else 100)

    def _check_answer(self, number: int, data: bytes, answer: Message) -> None:
        self._sim.check(answer.body["id"] == number, f"call {number} got another's answer")
        same = bytes(answer.tensors[0].data) == data
        self._sim.check(same, f"call {number} came back with other bytes")
        applied = [boot for boot, each in self._ledger.applied if each == number]
        self._sim.check(applied, f"call {number} was answered but never applied")
        self._ledger.answered.add(number)


@scenario("rpc-once")
async def rpc_once(sim: Sim) -> tuple[int, int]:
    """No call is applied twice by one boot of a peer, none outlives its deadline, all recover."""
    sim.net.weather = Weather(jitter_s=0.02)
    ledger = Ledger()
    hosts = [sim.host() for _ in range(NUM_PEERS)]
    for host in hosts:
        others = [other for other in hosts if other is not host]
        host.start(Peer(sim, ledger, host, others).run)
    while sim.now_s < TROUBLE_S:
        await asyncio.sleep(sim.rng.uniform(0.5, 8))
        await _trouble(sim, hosts)
    sim.heal()
    await asyncio.sleep(45)  # links that fell silent are noticed, callers' deadlines pass
    failed, answered = len(ledger.failed), len(ledger.answered)
    await asyncio.sleep(20)
    sim.check(len(ledger.failed) == failed, "calls still fail long after the network healed")
    sim.check(len(ledger.answered) > answered + 10, "hardly any call is answered after healing")
    return len(ledger.answered), len(ledger.failed)


async def _trouble(sim: Sim, hosts: list[Host]) -> None:
    one, other = sim.rng.sample(hosts, 2)
    match sim.rng.randrange(5):
        case 0:
            sim.reset_links(one, other)
        case 1:
            sim.partition([one], [other])
            await asyncio.sleep(sim.rng.uniform(0, 30))
            sim.heal()
        case 2:
            sim.net.cut(one.ip, other.ip)
            await asyncio.sleep(sim.rng.uniform(0, 30))
            sim.heal()
        case 3:
            one.restart()
        case _:
            sim.lose_power(one)
            await asyncio.sleep(sim.rng.uniform(0, 20))
            sim.heal([one])
            one.restart()
