import asyncio
from collections import deque

import pytest

from distqatd.base.errors import ConnectionClosed
from distqatd.net.writer import Writer


class ScriptedSession:
    """Hands out units as a session does."""

    def __init__(self) -> None:
        self.units: deque[list[bytes]] = deque()

    @property
    def wants_to_send(self) -> bool:
        return bool(self.units)

    def next_buffers(self) -> list[memoryview]:
        return [memoryview(part) for part in self.units.popleft()] if self.units else []

    def set_chunk_bytes(self, _: int) -> None:
        """Take what a writer says of the link's speed."""


class NarrowStream:
    """Takes `room` bytes at once; `send` waits for more."""

    def __init__(self) -> None:
        self.sent = b""
        self.room = 1 << 20
        self.more = asyncio.Event()
        self.is_reset = False

    def send_now(self, *buffers: memoryview) -> list[memoryview]:
        if self.is_reset:
            raise ConnectionClosed("reset")
        data = b"".join(buffers)
        self.sent += data[: self.room]
        rest = data[self.room :]
        self.room -= min(self.room, len(data))
        return [memoryview(rest)] if rest else []

    async def send(self, *buffers: memoryview) -> None:
        rest = self.send_now(*buffers)
        while rest:
            self.more.clear()
            await self.more.wait()
            rest = self.send_now(*rest)


class Bench:
    def __init__(self) -> None:
        self.session = ScriptedSession()
        self.stream = NarrowStream()
        self.word: str | None = None
        self.writer = Writer(self.session, self.stream, lambda: self.word)

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
async def bench():
    bench = Bench()
    task = asyncio.get_running_loop().create_task(bench.writer.run())
    await bench.settle()
    yield bench
    task.cancel()
    await asyncio.wait([task])


async def test_what_the_socket_takes_is_sent_before_wake_returns(bench):
    bench.session.units.append([b"head", b"payload"])
    bench.writer.wake()
    assert bench.stream.sent == b"headpayload"
    assert bench.writer.bytes_out == 11


async def test_what_it_does_not_take_follows_in_order_and_nothing_overtakes_it(bench):
    bench.stream.room = 3
    bench.session.units.append([b"first"])
    bench.writer.wake()
    bench.session.units.append([b"second"])
    bench.writer.wake()
    await bench.settle()
    assert bench.stream.sent == b"fir"
    bench.stream.room = 100
    bench.stream.more.set()
    await bench.settle()
    assert bench.stream.sent == b"firstsecond"
    assert bench.writer.bytes_out == 11


async def test_units_queued_together_all_go(bench):
    bench.session.units.extend([[b"one"], [b"two"], [b"three"]])
    bench.writer.wake()
    await bench.settle()
    assert bench.stream.sent == b"onetwothree"


async def test_a_reset_is_told_to_whoever_wakes(bench):
    bench.stream.is_reset = True
    bench.session.units.append([b"x"])
    with pytest.raises(ConnectionClosed, match="reset"):
        bench.writer.wake()


async def test_the_last_word_ends_it_after_what_was_queued():
    bench = Bench()
    bench.session.units.append([b"goodbye"])
    bench.word = "leaving"
    with pytest.raises(ConnectionClosed, match="leaving"):
        await bench.writer.run()
    assert bench.stream.sent == b"goodbye"


async def test_an_idle_writer_ends_when_it_is_woken_for_its_last_word():
    bench = Bench()
    task = asyncio.get_running_loop().create_task(bench.writer.run())
    await bench.settle()
    bench.session.units.append([b"goodbye"])
    bench.word = "leaving"
    bench.writer.wake()
    with pytest.raises(ConnectionClosed, match="leaving"):
        await task
    assert bench.stream.sent == b"goodbye"
