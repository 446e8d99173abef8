import asyncio
from typing import Any

import pytest

from distqatd.base.rng import seeded_rng
from distqatd.dht.calls import Calls, RoundTrip
from distqatd.dht.limits import DhtLimits
from tests.sim.sim import Sim, run

PEER = ("10.0.0.1", 4000)


class Line:
    """The other end: answers those transmissions whose number is in `answers`."""

    def __init__(self, answers: set[int], delay_s: float = 0.05, **limits: Any) -> None:
        self.sent: list[bytes] = []
        self.done: list[Any] = []
        self.slow: list[int] = []
        self.answers = answers
        self.delay_s = delay_s
        self.calls = Calls(self.send, DhtLimits(**limits), seeded_rng("calls"))

    def send(self, message_id: bytes, _body: bytes, endpoint: tuple[str, int]) -> None:
        self.sent.append(message_id)
        if message_id[7] in self.answers:
            loop = asyncio.get_running_loop()
            loop.call_later(self.delay_s, self.calls.answer, message_id, endpoint, [b"pong"])

    def ask(self) -> None:
        self.calls.start(PEER, b"ping", self.done.append, self.slow.append)


def simulate(line: Line, *, times: int = 1, wait_s: float = 10.0) -> Line:
    async def scenario(_: Sim) -> None:
        for _ in range(times):
            line.ask()
            await asyncio.sleep(wait_s)

    run(scenario, 1)
    return line


def test_an_answer_ends_a_call_without_retransmission() -> None:
    line = simulate(Line({0}))
    assert line.done == [[b"pong"]]
    assert len(line.sent) == 1
    assert len(line.calls) == 0


def test_a_lost_datagram_is_sent_again_and_costs_one_timeout() -> None:
    line = simulate(Line({1}))
    assert line.done == [[b"pong"]]
    assert line.slow == [1]
    assert len(line.sent) == 2


def test_silence_ends_after_all_tries_with_growing_pauses() -> None:
    line = simulate(Line(set()))
    assert line.done == [None]
    assert line.slow == [1, 2, 3]
    assert len(line.sent) == 4


def test_the_timeout_learns_of_a_link_slower_than_the_first_guess() -> None:
    line = simulate(Line({0, 1, 2, 3}, delay_s=0.6), times=30)
    assert line.calls.round_trip.timeout_s > 0.6
    sent_before = len(line.sent)
    simulate(line)
    assert len(line.sent) == sent_before + 1


def test_a_reply_from_elsewhere_or_to_nothing_is_refused() -> None:
    line = Line(set())

    async def scenario(_: Sim) -> None:
        line.ask()
        (message_id,) = line.sent
        assert not line.calls.answer(message_id, ("10.0.0.2", 4000), [b"x"])
        assert not line.calls.answer(b"12345678", PEER, [b"x"])
        assert not line.calls.answer(message_id[:7] + b"\x05", PEER, [b"x"])
        assert line.calls.answer(message_id, PEER, [b"x"])
        assert not line.calls.answer(message_id, PEER, [b"x"])

    run(scenario, 1)
    assert line.done == [[b"x"]]


def test_calls_under_way_are_bounded() -> None:
    line = Line(set(), max_calls=5)

    async def scenario(_: Sim) -> None:
        for _ in range(8):
            line.ask()
        assert len(line.calls) == 5
        await asyncio.sleep(0)
        assert line.done == [None] * 3
        line.calls.close()
        assert len(line.calls) == 0

    run(scenario, 1)
    assert line.done == [None] * 8


@pytest.mark.parametrize("sample_s", [0.0, 100.0])
def test_the_timeout_stays_within_its_bounds(sample_s: float) -> None:
    limits = DhtLimits()
    round_trip = RoundTrip(limits)
    for _ in range(100):
        round_trip.add(sample_s)
    assert limits.min_rto_s <= round_trip.timeout_s <= limits.max_rto_s
