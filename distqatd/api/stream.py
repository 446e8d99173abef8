"""Events as JSON lines, for as long as the client listens and the daemon runs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from distqatd.api import schema
from distqatd.base.events import Event


class _StreamEnded(Exception):
    """The client went away or the daemon stops."""


def event_reply(event: Event) -> schema.Event:
    """Return an event of the daemon's log as it travels."""
    return schema.Event(
        number=event.number,
        time_unix_s=event.time_unix_s,
        kind=event.kind,
        fields=dict(event.fields),
        degraded=event.degraded,
    )


class EventStream(Response):
    """Streams events as `application/x-ndjson` until they end, `stopping` is set or nobody listens.

    A client that reads slowly makes `send` wait; the event log then drops what it missed.
    """

    media_type = "application/x-ndjson"

    def __init__(self, events: AsyncIterator[Event], stopping: asyncio.Event) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._events = events
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        headers = self.raw_headers
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_end_after(self._stopping.wait()), name="events.stopping")
                tasks.create_task(_end_after(_disconnected(receive)), name="events.disconnected")
                tasks.create_task(_end_after(self._pump(send)), name="events.pump")
        except* _StreamEnded:
            pass
        await send({"type": "http.response.body", "body": b""})

    async def _pump(self, send: Send) -> None:
        try:
            async for event in self._events:
                line = event_reply(event).to_json().encode() + b"\n"
                await send({"type": "http.response.body", "body": line, "more_body": True})
        finally:
            aclose = getattr(self._events, "aclose", None)
            if aclose is not None:
                await aclose()


async def _end_after(work: Awaitable[object]) -> None:
    await work
    raise _StreamEnded


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
