import asyncio
from collections.abc import AsyncIterator
from typing import Any

from distqatd.api.stream import EventStream
from distqatd.base.clock import SystemClock
from distqatd.base.events import Event, EventLog


class _Client:
    """The client's end of one ASGI response."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.gone = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.put_nowait(dict(message))


async def _follow(log: EventLog, closed: list[bool]) -> AsyncIterator[Event]:
    try:
        async for event in log.follow():
            yield event
    finally:
        closed.append(True)


async def _open_stream(
    tasks: asyncio.TaskGroup, stopping: asyncio.Event, closed: list[bool]
) -> tuple[_Client, EventLog, asyncio.Task[None]]:
    client, log = _Client(), EventLog(SystemClock())
    stream = EventStream(_follow(log, closed), stopping)
    task = tasks.create_task(stream({"type": "http"}, client.receive, client.send))
    assert (await client.sent.get())["type"] == "http.response.start"
    await asyncio.sleep(0)
    log.emit("peer.joined")
    assert b"peer.joined" in (await client.sent.get())["body"]
    return client, log, task


async def test_an_open_stream_ends_when_the_server_stops() -> None:
    stopping, closed = asyncio.Event(), list[bool]()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        client, _, task = await _open_stream(tasks, stopping, closed)
        stopping.set()
        await task
        assert (await client.sent.get())["body"] == b""
    assert closed == [True]


async def test_an_idle_stream_ends_when_its_client_has_gone() -> None:
    closed = list[bool]()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        client, _, task = await _open_stream(tasks, asyncio.Event(), closed)
        client.gone.set()
        await task
    assert closed == [True]
