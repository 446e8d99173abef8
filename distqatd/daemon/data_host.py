"""The data server's parent: listens for trainers of this machine, starts a child when one asks."""

import asyncio
import json
import socket
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress

from distqatd.base.backoff import Backoff
from distqatd.base.events import EventLog
from distqatd.base.rng import Rng
from distqatd.roles import data_calls as calls
from distqatd.roles.packets import listen

PROGRAM = (sys.executable, "-m", "distqatd.roles.data_server")
TAKEN_S = 2.0
"""Another daemon of this machine may listen: whether it still does is tried again after this."""

GOODBYE_S = 0.5
"""One that loads torch or its data does not hear us yet; it has nothing to tidy up either."""

STOP_S = 3.0
MAX_LINE = 64 << 10
MAX_FIELDS = 16
BACKOFF = Backoff(first_s=0.2, cap_s=10.0)


class DataHost:
    """Keeps a data server at hand.

    The parent listens and the child accepts, so trainers that ask while there is no child wait
    for it instead of being refused. Nothing is loaded before one asks.
    """

    def __init__(self, name: str, job: calls.Job, events: EventLog, rng: Rng) -> None:
        """Prepare to listen under `name` and to have a child do `job`."""
        self._name = name
        self._job = job
        self._events = events
        self._rng = rng

    async def run(self) -> None:
        """Listen until cancelled; one daemon of a machine does, the others stand by."""
        # Nobody tells us when the daemon that listens ends.
        while (listener := listen(self._name)) is None:  # noqa: ASYNC110
            await asyncio.sleep(TAKEN_S)
        num_failures = 0
        with listener:
            while True:
                await _readable(listener)
                code = await self._serve(listener)
                num_failures = num_failures + 1 if code else 0
                if code:
                    self._events.emit("data.server_ended", degraded=True, code=code)
                    await asyncio.sleep(BACKOFF.delay_s(num_failures, self._rng))

    async def _serve(self, listener: socket.socket) -> int:
        """Run a child to its end; return its exit code."""
        child = await asyncio.create_subprocess_exec(
            *PROGRAM,
            str(listener.fileno()),
            stdin=PIPE,
            stdout=PIPE,
            pass_fds=(listener.fileno(),),
            limit=MAX_LINE,
        )
        self._events.emit("data.server_started", pid=child.pid)
        try:
            await self._follow(child)
            return await child.wait()
        finally:
            await self._stop(child)

    async def _follow(self, child: Process) -> None:
        """Give the child its job, and make its lines our events, until it has ended."""
        if child.stdin is None or child.stdout is None:
            return
        with suppress(ConnectionError):
            child.stdin.write(self._job.to_json().encode() + b"\n")
            await child.stdin.drain()
        while line := await child.stdout.readline():
            self._tell(line)

    def _tell(self, line: bytes) -> None:
        try:
            said = json.loads(line)
            fields = {
                name: value
                for name, value in [*said["fields"].items()][:MAX_FIELDS]
                if isinstance(value, str | int | float)
            }
            self._events.emit(str(said["event"]), degraded=said["degraded"] is True, **fields)
        except (ValueError, KeyError, TypeError, AttributeError):
            self._events.emit("data.server_said", line=line.decode(errors="replace")[:200])

    async def _stop(self, child: Process) -> None:
        """End the child if it lives: it says good-bye; if it does not, it is killed."""
        if child.returncode is None and child.stdin is not None:
            child.stdin.write(calls.END_LINE)
            with suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    await child.wait()
        if child.returncode is None:
            with suppress(ProcessLookupError):
                child.kill()
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_S):
                    await child.wait()


async def _readable(listener: socket.socket) -> None:
    """Wait until somebody asks."""
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(listener.fileno(), asked.set)
    try:
        await asked.wait()
    finally:
        loop.remove_reader(listener.fileno())
