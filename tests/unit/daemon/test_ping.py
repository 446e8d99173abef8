import pytest

from distqatd.base.errors import NetworkError, RemoteProtocolError
from distqatd.daemon.ping import NUM_BYTES, PING, ping, serve_ping
from distqatd.wire.payload import Message
from tests.support.loops import on_virtual_time
from tests.support.memory_rpc import MemoryNetwork

US, PEER = "u" * 52, "p" * 52


class Clock:
    def __init__(self, now_s):
        self.now_s = now_s

    def now(self):
        return self.now_s


def pair():
    net = MemoryNetwork()
    serve_ping(net.peer(PEER), Clock(1600.0))
    return net, net.peer(US)


@on_virtual_time
async def test_a_ping_measures_the_way_and_the_peers_clock():
    net, us = pair()
    net.delay(PING, 0.05)
    echo = await ping(us, Clock(1000.0), PEER, with_bandwidth=True)
    assert echo.rtt_s == pytest.approx(0.05)
    assert echo.jitter_s == pytest.approx(0)
    assert echo.clock_ahead_s == pytest.approx(600, abs=0.1)
    assert min(echo.up_bytes_per_s, echo.down_bytes_per_s) > NUM_BYTES


@on_virtual_time
async def test_bandwidth_is_measured_only_when_wanted():
    net, us = pair()
    echo = await ping(us, Clock(1000.0), PEER, with_bandwidth=False)
    assert (echo.up_bytes_per_s, echo.down_bytes_per_s) == (None, None)
    assert len(net.calls) == 5


@on_virtual_time
@pytest.mark.parametrize("num_bytes", [-1, NUM_BYTES + 1])
async def test_nobody_can_ask_for_more_than_a_ping_needs(num_bytes):
    _, us = pair()
    with pytest.raises(RemoteProtocolError, match="at most"):
        await us.call(PEER, PING, Message({"num_bytes": num_bytes}), timeout_s=5)


@on_virtual_time
async def test_a_peer_that_does_not_answer_is_an_error():
    net, us = pair()
    net.cut(PEER)
    with pytest.raises(NetworkError):
        await ping(us, Clock(0.0), PEER, with_bandwidth=False)
