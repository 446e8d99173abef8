"""What every Rpc does: the same cases against the in-memory fake and against the real pool."""

import asyncio

import pytest

from distqatd.base.errors import (
    ConnectionClosed,
    DialError,
    ExpertNotFound,
    LocalProtocolError,
    NotServed,
    PeerTimeout,
)
from distqatd.wire.payload import Message, TensorSpec, WireTensor
from tests.support.memory_rpc import MemoryNetwork
from tests.support.pools import memory_nodes, running


class MemoryWorld:
    """Two peers `a` and `b` of an in-memory network."""

    def __init__(self):
        self.network = MemoryNetwork()
        self.a, self.b = self.network.peer("a"), self.network.peer("b")

    def cut_b(self):
        self.network.cut("b")


class PoolWorld:
    """Two real pools over in-memory byte streams."""

    def __init__(self, nodes):
        self.nodes = nodes
        self.a, self.b = (node.pool for node in nodes)

    def cut_b(self):
        self.nodes[1].transport.net.listeners.clear()
        self.nodes[1].transport.net.reset_all()


@pytest.fixture(params=["memory", "pool"])
async def world(request):
    if request.param == "memory":
        yield MemoryWorld()
        return
    async with running(*memory_nodes()) as nodes:
        yield PoolWorld(nodes)


def tensor(data: bytes, name: str = "x") -> WireTensor:
    return WireTensor(TensorSpec(name, "uint8", (len(data),), len(data)), memoryview(data))


async def echo(caller, message):
    return Message({"from": caller.peer_id, **message.body}, message.tensors)


async def test_a_call_returns_what_the_handler_returned(world):
    world.b.serve("echo", echo)
    answer = await world.a.call(
        world.b.peer_id, "echo", Message({"n": 1}, (tensor(b"abc"),)), timeout_s=5
    )
    assert answer.body == {"from": world.a.peer_id, "n": 1}
    assert bytes(answer.tensors[0].data) == b"abc"
    assert answer.tensors[0].spec == TensorSpec("x", "uint8", (3,), 3)


async def test_tuples_arrive_as_lists(world):
    world.b.serve("echo", echo)
    answer = await world.a.call(world.b.peer_id, "echo", Message({"n": (1, 2)}), timeout_s=5)
    assert answer.body["n"] == [1, 2]


async def test_a_call_to_oneself_is_not_copied(world):
    world.a.serve("echo", echo)
    sent = tensor(b"abc")
    answer = await world.a.call(world.a.peer_id, "echo", Message({}, (sent,)), timeout_s=5)
    assert answer.tensors[0] is sent


async def test_tensors_land_in_the_sinks_of_both_sides(world):
    there, here = bytearray(4), bytearray(4)
    world.b.serve("echo", echo, sink=lambda spec: memoryview(there))
    await world.a.call(
        world.b.peer_id,
        "echo",
        Message({}, (tensor(b"abcd"),)),
        timeout_s=5,
        sink=lambda spec: memoryview(here),
    )
    assert there == here == b"abcd"


async def test_an_error_travels_as_its_kind_and_text(world):
    async def fail(caller, message):
        raise ExpertNotFound("tail.0.1.0 is not here")

    world.b.serve("fail", fail)
    with pytest.raises(ExpertNotFound, match=r"tail\.0\.1\.0 is not here"):
        await world.a.call(world.b.peer_id, "fail", Message({}), timeout_s=5)


async def test_a_method_nobody_serves_is_named(world):
    for peer in (world.a, world.b):
        with pytest.raises(NotServed, match="nope"):
            await world.a.call(peer.peer_id, "nope", Message({}), timeout_s=5)


async def test_a_request_above_the_methods_limit_is_refused(world):
    world.b.serve("echo", echo, max_bytes=10)
    with pytest.raises(LocalProtocolError, match="10 bytes"):
        await world.a.call(world.b.peer_id, "echo", Message({}, (tensor(bytes(11)),)), timeout_s=5)


async def test_a_second_serve_replaces_the_first(world):
    async def two(caller, message):
        return Message({"n": 2})

    world.b.serve("m", echo)
    world.b.serve("m", two)
    assert (await world.a.call(world.b.peer_id, "m", Message({}), timeout_s=5)).body == {"n": 2}


async def test_a_slow_answer_is_a_timeout_and_cancels_the_handler(world):
    cancelled = asyncio.Event()

    async def slow(caller, message):
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    world.b.serve("slow", slow)
    with pytest.raises(PeerTimeout, match="slow"):
        await world.a.call(world.b.peer_id, "slow", Message({}), timeout_s=0.01)
    async with asyncio.timeout(5):
        await cancelled.wait()


async def test_an_unknown_peer_cannot_be_dialled(world):
    with pytest.raises(DialError):
        await world.a.call("nobody", "echo", Message({}), timeout_s=5)


async def test_a_peer_that_goes_breaks_open_calls_and_is_reported(world):
    lost, started = [], asyncio.Event()

    async def hang(caller, message):
        started.set()
        await asyncio.Event().wait()

    world.a.on_lost(lambda peer, reason: lost.append(peer))
    world.b.serve("hang", hang)
    async with asyncio.TaskGroup() as group:
        call = group.create_task(broken_call(world, "hang"))
        await started.wait()
        world.cut_b()
        assert await call
    assert lost == [world.b.peer_id]


async def broken_call(world, method):
    with pytest.raises((ConnectionClosed, DialError)):
        await world.a.call(world.b.peer_id, method, Message({}), timeout_s=5)
    return True
