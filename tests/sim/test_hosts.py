"""Simulated machines crash, lose power, restart, and have wrong clocks."""

import asyncio

import pytest

from distqatd.base.errors import ConnectionClosed, DialError
from tests.sim.host import Host
from tests.sim.sim import Sim, run
from tests.support.sim_pair import PORT, dial, echo, pair, read, serve


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


def test_timers_that_outlive_a_crash_can_neither_send_nor_start_tasks() -> None:
    async def scenario(sim: Sim) -> None:
        other, acted = sim.host(), []

        async def act() -> None:
            acted.append("task")

        async def main(host: Host) -> None:
            transport = await host.transport.datagrams("", PORT, asyncio.DatagramProtocol())
            sim.loop.call_later(5, transport.sendto, b"late", (other.ip, PORT))
            sim.loop.call_later(5, lambda: sim.loop.create_task(act()))

        host = sim.host()
        host.start(main)
        await asyncio.sleep(1)
        host.crash()
        await asyncio.sleep(10)
        assert acted == []
        assert sim.net.counts["datagrams sent"] == 0

    run(scenario, 1)


def test_the_late_cleanup_of_a_crashed_program_leaves_its_successors_port_alone() -> None:
    async def scenario(sim: Sim) -> None:
        client, server = sim.host(), sim.host()

        async def main(host: Host) -> None:
            listener = await host.transport.listen("", PORT, echo)
            endpoint = await host.transport.datagrams("", PORT, asyncio.DatagramProtocol())
            try:
                await asyncio.sleep(1000)
            finally:
                endpoint.close()
                await listener.close()

        server.start(main)
        await asyncio.sleep(1)
        server.restart()
        await asyncio.sleep(1)
        await dial(client, server)
        assert (server.ip, PORT) in sim.net.endpoints

    run(scenario, 1)
