"""Simulated datagrams are lost, doubled and reordered as asked."""

import asyncio

import pytest

from tests.sim.network import Weather
from tests.sim.sim import Sim, run
from tests.support.sim_pair import PORT


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
