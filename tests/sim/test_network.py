"""The simulated network keeps the promises of `distqatd.net.transport`."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from distqatd.base.errors import ConnectionClosed, DialError, PortInUse
from distqatd.net.address import Address
from tests.sim.host import Host
from tests.sim.network import Weather
from tests.sim.sim import Sim, run
from tests.sim.streams import WINDOW_BYTES, SimStream

PORT = 29700


async def echo(stream: SimStream) -> None:
    buffer = memoryview(bytearray(65536))
    while size := await stream.recv_into(buffer):
        await stream.send(buffer[:size])


async def serve(host: Host, on_stream: Callable[[SimStream], Awaitable[None]] = echo) -> None:
    await host.transport.listen("0.0.0.0", PORT, on_stream)


async def dial(source: Host, target: Host, timeout_s: float = 5.0) -> SimStream:
    expect = target.identity.peer_id
    return await source.transport.dial(Address(target.ip, PORT), expect=expect, timeout_s=timeout_s)


async def read(stream: SimStream, size: int) -> bytes:
    data, buffer = b"", memoryview(bytearray(65536))
    while len(data) < size:
        count = await stream.recv_into(buffer[: size - len(data)])
        assert count
        data += buffer[:count]
    return data


async def pair(sim: Sim) -> tuple[Host, Host, SimStream]:
    client, server = sim.host(), sim.host()
    server.start(serve)
    await asyncio.sleep(0)
    return client, server, await dial(client, server)


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


def test_a_crash_resets_streams_and_a_restart_serves_again_with_the_same_disk() -> None:
    async def scenario(sim: Sim) -> None:
        client, server = sim.host(), sim.host()

        async def count_boots(host: Host) -> None:
            host.disk["boots"] = host.disk.get("boots", 0) + 1
            await serve(host)

        server.start(count_boots)
        await asyncio.sleep(0)
        stream = await dial(client, server)
        server.crash()
        crashed_s = sim.now_s
        with pytest.raises(ConnectionClosed, match="reset"):
            await stream.recv_into(memoryview(bytearray(1)))
        assert sim.now_s - crashed_s == pytest.approx(sim.net.latency_s(server.ip, client.ip))
        with pytest.raises(DialError, match="refused"):
            await dial(client, server)
        server.restart()
        again = await dial(client, server)
        await again.send(memoryview(b"hi"))
        assert await read(again, 2) == b"hi"
        assert server.disk["boots"] == server.boots == 2

    run(scenario, 1)


def test_a_crash_cancels_every_task_of_the_machine_and_no_other() -> None:
    async def scenario(sim: Sim) -> None:
        ended = []

        async def child(name: str) -> None:
            try:
                await asyncio.sleep(1000)
            finally:
                ended.append(name)

        async def main(host: Host) -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(child(host.ip))
                await child(host.ip)

        one, other = sim.host(), sim.host()
        one.start(main)
        other.start(main)
        await asyncio.sleep(1)
        one.crash()
        await asyncio.sleep(1)
        assert ended == [one.ip, one.ip]

    run(scenario, 1)


def test_nothing_leaves_a_crashed_machine_even_from_its_cleanup_code() -> None:
    async def scenario(sim: Sim) -> None:
        client, server = sim.host(), sim.host()
        server.start(serve)

        async def main(host: Host) -> None:
            transport = await host.transport.datagrams("", PORT, asyncio.DatagramProtocol())
            stream = await dial(host, server)
            try:
                await asyncio.sleep(1000)
            finally:
                transport.sendto(b"farewell", (server.ip, PORT))
                with pytest.raises(ConnectionClosed):
                    await stream.send(memoryview(b"farewell"))
                with pytest.raises(DialError):
                    await dial(host, server)
                host.disk["cleaned up"] = True

        client.start(main)
        await asyncio.sleep(5)
        client.crash()
        await asyncio.sleep(5)
        assert client.disk["cleaned up"]
        assert sim.net.counts["stream"] == sim.net.counts["datagrams sent"] == 0

    run(scenario, 1)


def test_lost_power_is_silence_until_the_machine_is_back() -> None:
    async def scenario(sim: Sim) -> None:
        _client, server, stream = await pair(sim)
        sim.lose_power(server)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(100):
                await stream.recv_into(memoryview(bytearray(1)))
        sim.heal([server])
        server.restart()
        with pytest.raises(ConnectionClosed, match="reset"):
            await stream.recv_into(memoryview(bytearray(1)))

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


class Sink(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.numbers: list[int] = []

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.numbers.append(int.from_bytes(data, "big"))


async def shower(sim: Sim, weather: Weather, count: int = 4000) -> list[int]:
    sim.net.weather = weather
    source, target, sink = sim.host(), sim.host(), Sink()
    await target.transport.datagrams("", PORT, sink)
    transport = await source.transport.datagrams("", 0, asyncio.DatagramProtocol())
    for number in range(count):
        transport.sendto(number.to_bytes(4, "big"), (target.ip, PORT))
        await asyncio.sleep(0.01)
    await asyncio.sleep(5)
    return sink.numbers


def test_datagrams_are_lost_and_doubled_at_the_rates_asked_for() -> None:
    numbers = run(lambda sim: shower(sim, Weather(loss=0.2, duplication=0.1)), 1).value
    assert len(set(numbers)) / 4000 == pytest.approx(0.8, abs=0.03)
    assert len(numbers) / len(set(numbers)) == pytest.approx(1.1, abs=0.03)


def test_datagrams_are_reordered_at_the_rate_asked_for() -> None:
    numbers = run(lambda sim: shower(sim, Weather(reordering=0.1)), 1).value
    late = sum(number < highest for number, highest in zip(numbers, _highest(numbers), strict=True))
    assert sorted(numbers) == list(range(4000))
    assert late / 4000 == pytest.approx(0.1, abs=0.03)


def _highest(numbers: list[int]) -> list[int]:
    highest, result = -1, []
    for number in numbers:
        highest = max(highest, number)
        result.append(highest)
    return result


def test_datagrams_through_fair_weather_all_arrive_in_order() -> None:
    assert run(lambda sim: shower(sim, Weather()), 1).value == list(range(4000))


def test_a_partition_loses_datagrams_that_are_on_the_way() -> None:
    async def scenario(sim: Sim) -> list[int]:
        source, target, sink = sim.host(), sim.host(), Sink()
        await target.transport.datagrams("", PORT, sink)
        transport = await source.transport.datagrams("", 0, asyncio.DatagramProtocol())
        transport.sendto(b"\1", (target.ip, PORT))
        sim.partition([target])
        await asyncio.sleep(1)
        sim.heal()
        transport.sendto(b"\2", (target.ip, PORT))
        await asyncio.sleep(1)
        return sink.numbers

    assert run(scenario, 1).value == [2]


def test_clocks_are_wrong_by_their_skew_and_drift_while_durations_are_not() -> None:
    async def scenario(sim: Sim) -> None:
        right, ahead = sim.host(), sim.host(skew_s=300)
        ahead.clock.drift = 0.01
        assert ahead.clock.now() - right.clock.now() == 300
        await asyncio.sleep(1000)
        assert ahead.clock.now() - right.clock.now() == pytest.approx(310)
        ahead.clock.skew_s = -60
        assert ahead.clock.now() < right.clock.now()

    run(scenario, 1)


def test_an_error_on_a_machine_ends_the_simulation_with_that_error() -> None:
    async def broken(host: Host) -> None:
        await asyncio.sleep(2)
        raise LookupError("a bug on a machine")

    async def scenario(sim: Sim) -> None:
        sim.host().start(broken)
        await asyncio.sleep(100)

    with pytest.raises(AssertionError, match=r"at 2\.000 virtual seconds: LookupError: a bug"):
        run(scenario, 1)
