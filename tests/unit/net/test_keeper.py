import asyncio

import pytest

from distqatd.base.errors import ConnectionClosed
from distqatd.net.keeper import Keeper
from tests.support.loops import on_virtual_time
from tests.support.pools import memory_nodes, peer, running


@on_virtual_time
async def test_a_silent_peer_is_pinged_every_5_s_and_dead_after_15():
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    pings = []
    keeper = Keeper(lambda nonce: pings.append((nonce, loop.time() - began_s)))
    with pytest.raises(ConnectionClosed, match="silent for 15 s"):
        await keeper.run()
    assert loop.time() - began_s == pytest.approx(15)
    assert [nonce for nonce, _ in pings] == [1, 2, 3]
    assert [at_s for _, at_s in pings] == pytest.approx([0, 5, 10])


@on_virtual_time
async def test_a_peer_that_sends_anything_lives_and_is_not_pinged():
    loop = asyncio.get_running_loop()
    pings = []
    keeper = Keeper(pings.append)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(keeper.run())
        for _ in range(60):
            await asyncio.sleep(1)
            keeper.heard(loop.time())
        task.cancel()
    assert pings == [1]


@on_virtual_time
async def test_the_round_trip_is_that_of_the_last_ping():
    loop = asyncio.get_running_loop()
    keeper = Keeper(lambda nonce: loop.call_later(0.03, lambda: keeper.pong(nonce, loop.time())))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(keeper.run())
        await asyncio.sleep(1)
        assert keeper.rtt_s == pytest.approx(0.03)
        keeper.pong(77, loop.time())
        assert keeper.rtt_s == pytest.approx(0.03)
        task.cancel()


@on_virtual_time
async def test_a_pulled_cable_is_noticed_by_both_after_15_s_and_an_idle_link_is_not():
    a, b = memory_nodes()
    async with running(a, b):
        await a.pool.dial(b.address, 5)
        await asyncio.sleep(600)
        assert len(a.pool.links()) == len(b.pool.links()) == 1
        assert a.pool.links()[0].rtt_s is not None
        for pair in a.transport.net.streams:
            for stream in pair:
                stream.frozen = True
        await asyncio.sleep(9)
        assert a.lost == b.lost == []
        await asyncio.sleep(7)
        assert [who for who, _ in a.lost + b.lost] == [peer("b"), peer("a")]
        assert "silent for" in a.lost[0][1]
