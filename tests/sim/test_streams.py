"""Simulated links keep the promises of `distqatd.net.transport`."""

import asyncio

import pytest

from distqatd.base.errors import ConnectionClosed, DialError, PortInUse
from distqatd.net.address import Address
from tests.sim.network import Weather
from tests.sim.sim import Sim, run
from tests.sim.streams import WINDOW_BYTES, SimStream
from tests.support.sim_pair import PORT, dial, echo, pair, read, serve


def test_bytes_arrive_in_order_however_they_are_cut_and_jittered() -> None:
    async def scenario(sim: Sim) -> None:
        sim.net.weather = Weather(jitter_s=0.5)
        _client, server, stream = await pair(sim)
        sent = sim.rng.randbytes(100_000)
        position = 0
        while position < len(sent):
            size = sim.rng.randrange(1, 9000)
            data = memoryview(sent)[position : position + size]
            await stream.send(data[: size // 2], data[size // 2 :])
            position += size
            await asyncio.sleep(sim.rng.choice([0, 0, 0.01]))
        assert await read(stream, len(sent)) == sent
        assert stream.peer_id == server.identity.peer_id

    run(scenario, 1)


def test_a_buffer_may_change_once_send_has_returned() -> None:
    async def scenario(sim: Sim) -> bytes:
        *_, stream = await pair(sim)
        buffer = bytearray(b"first")
        await stream.send(memoryview(buffer))
        buffer[:] = b"later"
        return await read(stream, 5)

    assert run(scenario, 1).value == b"first"


def test_a_round_trip_takes_the_latency_of_the_link_each_way() -> None:
    async def scenario(sim: Sim) -> float:
        client, server, stream = await pair(sim)
        sim.net.set_latency(client.ip, server.ip, 0.04)
        began_s = sim.now_s
        await stream.send(memoryview(b"ping"))
        await read(stream, 4)
        return sim.now_s - began_s

    assert run(scenario, 1).value == pytest.approx(0.08)


def test_each_pair_of_machines_has_its_own_latency_that_follows_from_the_seed() -> None:
    async def scenario(sim: Sim) -> list[float]:
        return [sim.net.latency_s("10.0.0.1", f"10.0.0.{n}") for n in range(2, 5)]

    first = run(scenario, 1).value
    assert len(set(first)) == 3
    assert first == run(scenario, 1).value != run(scenario, 2).value


def test_closing_lets_the_other_end_read_everything_then_the_end() -> None:
    async def scenario(sim: Sim) -> None:
        async def speak(stream: SimStream) -> None:
            await stream.send(memoryview(b"goodbye"))

        client, server = sim.host(), sim.host()
        server.start(lambda host: serve(host, speak))
        await asyncio.sleep(0)
        stream = await dial(client, server)
        assert await read(stream, 7) == b"goodbye"
        assert await stream.recv_into(memoryview(bytearray(1))) == 0

    run(scenario, 1)


def test_aborting_wakes_whoever_waits_on_either_end() -> None:
    async def scenario(sim: Sim) -> list[str]:
        endings = []

        async def wait(stream: SimStream, who: str) -> None:
            with pytest.raises(ConnectionClosed):
                await stream.recv_into(memoryview(bytearray(1)))
            endings.append(who)

        client, server = sim.host(), sim.host()
        server.start(lambda host: serve(host, lambda stream: wait(stream, "server")))
        await asyncio.sleep(0)
        stream = await dial(client, server)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(wait(stream, "client"))
            await asyncio.sleep(1)
            stream.abort()
        with pytest.raises(ConnectionClosed):
            await stream.send(memoryview(b"x"))
        await asyncio.sleep(1)
        return endings

    assert run(scenario, 1).value == ["client", "server"]


def test_a_sender_waits_while_the_receiver_does_not_read() -> None:
    async def scenario(sim: Sim) -> None:
        go = asyncio.Event()

        async def late(stream: SimStream) -> None:
            await go.wait()
            await read(stream, 3 * WINDOW_BYTES)

        client, server = sim.host(), sim.host()
        server.start(lambda host: serve(host, late))
        await asyncio.sleep(0)
        stream = await dial(client, server)
        chunk = memoryview(bytes(WINDOW_BYTES))
        sent = []

        async def send() -> None:
            for _ in range(3):
                await stream.send(chunk)
                sent.append(sim.now_s)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send())
            await asyncio.sleep(100)
            assert len(sent) == 2
            go.set()
        assert len(sent) == 3

    run(scenario, 1)


def test_a_partition_stalls_a_stream_and_healing_delivers_everything_once() -> None:
    async def scenario(sim: Sim) -> float:
        client, _server, stream = await pair(sim)
        sim.partition([client])
        await stream.send(memoryview(b"through "))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await read(stream, 1)
        await stream.send(memoryview(b"the cut"))
        sim.heal()
        healed_s = sim.now_s
        assert await read(stream, 15) == b"through the cut"
        return sim.now_s - healed_s

    assert 0 < run(scenario, 1).value < 25


def test_a_cut_in_one_direction_lets_the_other_through() -> None:
    async def scenario(sim: Sim) -> None:
        client, server, stream = await pair(sim)
        sim.net.cut(server.ip, client.ip)
        await stream.send(memoryview(b"x"))
        before = sim.net.counts["stream"]
        await asyncio.sleep(5)
        assert sim.net.counts["stream"] == before + 1
        sim.heal([server])
        assert await read(stream, 1) == b"x"

    run(scenario, 1)


def test_dialling_nobody_somebody_else_or_through_a_cut_fails_as_on_a_network() -> None:
    async def scenario(sim: Sim) -> None:
        client, server, _stream = await pair(sim)
        dialling = client.transport.dial
        with pytest.raises(DialError, match="did not answer within 3 s"):
            await dialling(Address("10.9.9.9", PORT), expect=None, timeout_s=3)
        with pytest.raises(DialError, match="refused"):
            await dialling(Address(server.ip, 1), expect=None, timeout_s=3)
        with pytest.raises(DialError, match=f"is peer {server.identity.peer_id}, not"):
            await dialling(Address(server.ip, PORT), expect=client.identity.peer_id, timeout_s=3)
        sim.partition([server])
        with pytest.raises(DialError, match="did not answer"):
            await dial(client, server)

    run(scenario, 1)


def test_a_dial_goes_through_when_the_partition_heals_before_its_timeout() -> None:
    async def scenario(sim: Sim) -> None:
        client, server, _stream = await pair(sim)
        sim.partition([server])
        sim.loop.call_later(3, sim.heal)
        await dial(client, server, timeout_s=10)

    run(scenario, 1)


def test_a_port_is_taken_once_and_free_again_after_close() -> None:
    async def scenario(sim: Sim) -> None:
        host = sim.host()
        listener = await host.transport.listen("", PORT, echo)
        endpoint = await host.transport.datagrams("", PORT, asyncio.DatagramProtocol())
        with pytest.raises(PortInUse, match="29700"):
            await host.transport.listen("", PORT, echo)
        with pytest.raises(PortInUse, match="29700"):
            await host.transport.datagrams("", PORT, asyncio.DatagramProtocol())
        await listener.close()
        endpoint.close()
        await host.transport.listen("", PORT, echo)
        await host.transport.datagrams("", PORT, asyncio.DatagramProtocol())
        free = await host.transport.listen("", 0, echo)
        assert free.address.port not in {0, PORT}

    run(scenario, 1)


def test_closing_a_listener_ends_the_tasks_of_its_streams() -> None:
    async def scenario(sim: Sim) -> None:
        client, server = sim.host(), sim.host()
        listener = await server.transport.listen("", PORT, echo)
        stream = await dial(client, server)
        await listener.close()
        assert await stream.recv_into(memoryview(bytearray(1))) == 0
        with pytest.raises(DialError, match="refused"):
            await dial(client, server)

    run(scenario, 1)
