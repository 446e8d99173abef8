"""One link: a session's shell around a byte stream, with a reader, a writer and a keeper."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from distqatd.base.errors import (
    ConnectionClosed,
    DistqatError,
    LocalProtocolError,
    Overloaded,
    RemoteProtocolError,
    error_for_code,
)
from distqatd.net.hello import read_hello, refuse, send_hello
from distqatd.net.keeper import Keeper
from distqatd.net.rpc import Caller, Hello
from distqatd.net.server import Server
from distqatd.net.transport import ByteStream
from distqatd.net.writer import BURST_BYTES, Writer
from distqatd.wire import limits
from distqatd.wire.budget import Budget
from distqatd.wire.events import (
    Event,
    GoAwayReceived,
    PongReceived,
    RequestCancelled,
    RequestFailed,
    RequestReceived,
    ResponseReceived,
)
from distqatd.wire.messages import Failure, RequestHead
from distqatd.wire.payload import Message, Sink
from distqatd.wire.session import Session

log = logging.getLogger(__name__)


class Connection:
    """A link to a peer. `handshake` first, then `run` for as long as the link lives.

    Args:
        stream: the authenticated connection; owned from now on.
        dialer: whether we made it.
        server: answers the peer's requests.
        budget: for incoming messages.
        on_end: told once, with the reason, as soon as the link is of no use any more.
    """

    def __init__(
        self,
        stream: ByteStream,
        *,
        dialer: bool,
        server: Server,
        budget: Budget,
        on_end: Callable[["Connection", str], None],
    ) -> None:
        self.stream = stream
        self.peer_id = stream.peer_id
        self.dialer = dialer
        self.bytes_in = 0
        self.end_reason: str | None = None
        self._server = server
        self._on_end = on_end
        self._session = Session(self.peer_id, dialer=dialer, budget=budget, admit=self._admit)
        self._hello: Hello | None = None
        self._caller: Caller | None = None
        self._pending: dict[int, asyncio.Future[Message | Failure]] = {}
        self._handlers: dict[int, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(limits.MAX_OUTGOING_STREAMS)
        self._group: asyncio.TaskGroup | None = None
        self._reader: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._interrupted = False
        self._retiring = False
        self._leaving: str | None = None
        self._goodbye = "reset: the peer closed the connection"
        self._burst_bytes = 0  # received since the reader last let others run
        self._keeper = Keeper(self._ping)
        self._writer = Writer(self._session, stream, self._last_word)

    @property
    def hello(self) -> Hello:
        """Return what the peer said; only after the handshake."""
        if self._hello is None:
            raise LocalProtocolError("the peer's HELLO has not been read")
        return self._hello

    @property
    def bytes_out(self) -> int:
        """Return the bytes sent so far."""
        return self._writer.bytes_out

    @property
    def rtt_s(self) -> float | None:
        """Return the round trip time of the last ping, seconds."""
        return self._keeper.rtt_s

    @property
    def usable(self) -> bool:
        """Return whether new requests may be sent."""
        return self.end_reason is None and not self._retiring and not self._session.exhausted

    async def handshake(self, ours: Hello, accept: Callable[[Hello], None]) -> Hello:
        """Exchange HELLOs and return the peer's.

        Args:
            ours: what we say.
            accept: called with the peer's HELLO; raises a DistqatError to refuse the link. An
                accepting side calls it before it says HELLO, so that a dialer that has read a
                HELLO knows that it has been let in.

        Raises:
            DistqatError: see `net.hello`, and what `accept` raises.
        """
        if self.dialer:
            await send_hello(self.stream, self._session, ours)
        theirs = await read_hello(self.stream, self._session)
        accept(theirs)
        if not self.dialer:
            await send_hello(self.stream, self._session, ours)
        self._hello = theirs
        self._caller = Caller(theirs.peer_id, theirs.boot_epoch, theirs.roles)
        return theirs

    async def refuse(self, failure: Failure) -> None:
        """Tell the peer why this link will not be, and close it; bounded in time."""
        await refuse(self.stream, self._session, failure)

    async def request(self, head: RequestHead, message: Message, sink: Sink | None) -> Message:
        """Send a request and return its answer; cancelling it cancels the handler there.

        Raises:
            ConnectionClosed: the link broke; `end_reason` is set then.
            DistqatError: what the peer answered, as the class of its code.
        """
        async with self._slots:
            if self.end_reason is not None:
                raise ConnectionClosed(self.end_reason)
            number = self._session.request(head, message, sink)
            answer: asyncio.Future[Message | Failure]
            answer = asyncio.get_running_loop().create_future()
            self._pending[number] = answer
            self._wake_writer()
            try:
                outcome = await answer
            finally:
                if self._pending.pop(number, None) is not None:
                    self._give_up(number)
        if isinstance(outcome, Failure):
            raise error_for_code(outcome.code)(outcome.text)
        return outcome

    def retire(self, failure: Failure) -> None:
        """Open no more streams, say so, and end when those that are open have ended."""
        if self.end_reason is None and not self._retiring:
            self._retiring = True
            self._goodbye = failure.text
            self._session.go_away(failure)
            self._wake_writer()

    async def leave(self, failure: Failure) -> None:
        """Say goodbye and end now, whatever is open; bounded in time."""
        self._leaving = failure.text
        self._session.go_away(failure)
        self._wake_writer()
        try:
            async with asyncio.timeout(1.0):
                await self._ended.wait()
        except TimeoutError:
            self.end(failure.text)

    def end(self, reason: str) -> None:
        """Stop using the link at once; whoever waits for an answer gets ConnectionClosed."""
        if self.end_reason is not None:
            return
        self.end_reason = reason
        self.stream.abort()
        for answer in self._pending.values():
            if not answer.done():
                answer.set_result(Failure(ConnectionClosed.wire_code, reason))
        self._pending.clear()
        self._session.close()
        self._ended.set()
        self._on_end(self, reason)

    async def run(self) -> None:
        """Serve the link until it ends; then everything it started has ended too."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._reader = group.create_task(self._guard(self._read), name="link.read")
                tasks = [
                    self._reader,
                    group.create_task(self._guard(self._writer.run), name="link.write"),
                    group.create_task(self._guard(self._keeper.run), name="link.keep"),
                ]
                await self._ended.wait()
                for task in [*tasks, *self._handlers.values()]:
                    task.cancel()
        finally:
            self.end("closed here")

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        """End the link when one of its loops does."""
        try:
            await work()
        except RemoteProtocolError as error:
            log.warning("link.protocol_error", extra={"peer": self.peer_id, "error": str(error)})
            self.end(f"broke the protocol: {error}")
        except (DistqatError, OSError) as error:
            self.end(str(error))
        except Exception:
            # The boundary of a link: a bug in it must not end the daemon.
            log.exception("link.failed", extra={"peer": self.peer_id})
            self.end("an internal error; see the log")

    async def _read(self) -> None:
        num_bytes = 0
        loop = asyncio.get_running_loop()
        while True:
            for event in self._session.received(num_bytes):
                self._handle(event)
            if self._session.wants_to_send or self._retiring:
                self._wake_writer()
            num_bytes = await self._receive()
            self.bytes_in += num_bytes
            self._keeper.heard(loop.time())

    async def _receive(self) -> int:
        """Receive bytes; 0 if the buffer in use has been taken away meanwhile."""
        try:
            if self._burst_bytes > BURST_BYTES:
                self._burst_bytes = 0
                await asyncio.sleep(0)
            num_bytes = await self.stream.recv_into(self._session.buffer())
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._interrupted or task is None or task.uncancel() > 0:
                raise
            self._interrupted = False
            return 0
        if not num_bytes:
            raise ConnectionClosed(self._goodbye)
        self._burst_bytes += num_bytes
        return num_bytes

    def _handle(self, event: Event) -> None:
        match event:
            case RequestReceived():
                self._start_handler(event)
            case ResponseReceived(stream, outcome) | RequestFailed(stream, outcome):
                answer = self._pending.pop(stream, None)
                if answer is not None and not answer.done():
                    answer.set_result(outcome)
            case RequestCancelled(stream):
                if stream in self._handlers:
                    self._handlers[stream].cancel()
            case PongReceived(nonce):
                self._keeper.pong(nonce, asyncio.get_running_loop().time())
            case GoAwayReceived(failure):
                self._retiring = True
                self._goodbye = failure.text

    def _admit(self, head: RequestHead, num_bytes: int) -> Sink | None:
        if len(self._handlers) >= limits.MAX_INCOMING_STREAMS:
            raise Overloaded(f"{len(self._handlers)} requests of this peer are being served")
        return self._server.admit(head, num_bytes)

    def _start_handler(self, event: RequestReceived) -> None:
        if self._group is None or self._caller is None:
            raise LocalProtocolError("a request before the handshake was over")
        task = self._group.create_task(self._serve(event, self._caller), name=event.head.method)
        self._handlers[event.stream] = task
        task.add_done_callback(lambda task: self._served(event, task))

    async def _serve(self, event: RequestReceived, caller: Caller) -> None:
        outcome = await self._server.answer(caller, event.head, event.message)
        self._answer(event.stream, outcome)

    def _served(self, event: RequestReceived, task: asyncio.Task[None]) -> None:
        """Clean up behind a handler, also one that was cancelled before it began."""
        del self._handlers[event.stream]
        event.reservation.release()
        if task.cancelled():  # by itself, or else nobody waits for this answer any more
            text = f"the handler of {event.head.method} was cancelled"
            self._answer(event.stream, Failure(ConnectionClosed.wire_code, text))

    def _answer(self, number: int, outcome: Message | Failure) -> None:
        if self.end_reason is not None:
            return
        try:
            if isinstance(outcome, Message):
                self._session.respond(number, outcome)
            else:
                self._session.fail(number, outcome)
        except LocalProtocolError as error:
            self._session.fail(number, Failure(error.wire_code, str(error)))
        self._wake_writer()

    def _give_up(self, number: int) -> None:
        """Cancel a request; if its answer was filling a sink, get the reader's hands off it."""
        if self.end_reason is not None:
            return
        if self._session.cancel(number) and self._reader is not None:
            self._interrupted = True
            self._reader.cancel()
        self._wake_writer()

    def _wake_writer(self) -> None:
        try:
            self._writer.wake()
        except ConnectionClosed as error:
            self.end(str(error))

    def _last_word(self) -> str | None:
        """Return why the link ends now, if it does: we leave, or all that was open is answered."""
        if self._leaving is not None:
            return self._leaving
        is_busy = self._session.num_streams or self._session.wants_to_send
        return self._goodbye if self._retiring and not is_busy else None

    def _ping(self, nonce: int) -> None:
        self._session.ping(nonce)
        self._wake_writer()
