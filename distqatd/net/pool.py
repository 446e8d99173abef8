"""All links of a daemon, and the calls over them: the Rpc that everybody above uses."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from distqatd.base.clock import Clock
from distqatd.base.errors import (
    ConnectionClosed,
    DialError,
    DistqatError,
    PeerTimeout,
    Refused,
    RemoteProtocolError,
)
from distqatd.base.events import EventLog
from distqatd.base.ids import PeerId
from distqatd.base.rng import Rng
from distqatd.base.tasks import Supervisor
from distqatd.net.address import Address
from distqatd.net.book import AddressBook, parse_advertised
from distqatd.net.connection import Connection
from distqatd.net.hello import mismatch
from distqatd.net.links import Dial, LinkInfo, LinkTable
from distqatd.net.links import PoolLimits as PoolLimits
from distqatd.net.rpc import Caller, Handler, Hello, OnLost, Sink
from distqatd.net.server import Server
from distqatd.net.transport import ByteStream, Listener, Transport
from distqatd.wire.budget import Budget
from distqatd.wire.messages import MAX_TIMEOUT_MS, Failure, RequestHead
from distqatd.wire.payload import Message, check_message

log = logging.getLogger(__name__)

STOPPING = "the peer is stopping"
"""What a daemon says to its peers when it ends in order."""

_DIAL_TIMEOUT_S = 5.0
_MAX_ATTEMPTS = 3


class Pool:
    """Links to peers, made when needed; implements `net.rpc.Rpc`. Nothing happens before `run`.

    Args:
        peer_id: our own.
        hello: what we say about ourselves now; asked for every link.
        transport: makes the byte streams.
        limits: bounds.
        clock: wall time, for people only.
        rng: for the supervisor of the links.
        events: told of peers that come and go.
    """

    def __init__(
        self,
        peer_id: PeerId,
        hello: Callable[[], Hello],
        transport: Transport,
        limits: PoolLimits,
        clock: Clock,
        rng: Rng,
        events: EventLog,
    ) -> None:
        self.peer_id = peer_id
        self._hello = hello
        self._transport = transport
        self._clock = clock
        self._rng = rng
        self._events = events
        self._server = Server()
        self._budget = Budget(limits.bytes_in_flight, limits.bytes_in_flight_per_peer)
        self._links = LinkTable(peer_id, limits.max_links)
        self._book = AddressBook()
        self._dials: dict[PeerId, Dial] = {}
        self._outstanding: dict[PeerId, dict[int, None]] = {}
        self._next_sequence = 1
        self._on_lost: list[OnLost] = []
        self._supervisor: Supervisor | None = None
        self._running = asyncio.Event()
        self._is_stopping = False
        self._closed = asyncio.Event()
        self._listener: Listener | None = None

    async def run(self) -> None:
        """Own the links until `close` is called or this is cancelled."""
        try:
            async with Supervisor("net", self._rng) as supervisor:
                self._supervisor = supervisor
                self._running.set()
                try:
                    await self._closed.wait()
                finally:
                    self._is_stopping = True  # links that end from now on are not lost
        finally:
            self._running.clear()
            self._supervisor = None
            if self._listener is not None:
                await self._listener.close()

    async def start_listening(self, host: str, port: int) -> Address:
        """Accept links; return the address with the port that was chosen.

        Raises:
            PortInUse: the port is taken.
        """
        await self._started()
        self._listener = await self._transport.listen(host, port, self._accept)
        return self._listener.address

    async def close(self) -> None:
        """Say goodbye to all peers and end `run`; takes about a second at most."""
        self._is_stopping = True
        goodbye = Failure(ConnectionClosed.wire_code, STOPPING)
        async with asyncio.TaskGroup() as group:
            for link in self._links.all():
                group.create_task(link.leave(goodbye))
        self._closed.set()

    def links(self) -> tuple[LinkInfo, ...]:
        """Return the links in use."""
        return self._links.infos()

    def serve(
        self, method: str, handler: Handler, *, max_bytes: int = 1 << 20, sink: Sink | None = None
    ) -> None:
        """Answer `method`; see `Rpc.serve`."""
        self._server.serve(method, handler, max_bytes, sink)

    def learn(self, peer: PeerId, addresses: Sequence[Address]) -> None:
        """Remember where a peer may be reached, best first."""
        self._book.learn(peer, addresses)

    def on_lost(self, callback: OnLost) -> None:
        """Have `callback` told when the last link to a peer is gone or cannot be made, and why."""
        self._on_lost.append(callback)

    async def call(
        self,
        peer: PeerId,
        method: str,
        message: Message,
        *,
        timeout_s: float,
        sink: Sink | None = None,
    ) -> Message:
        """Ask a peer; see `Rpc.call`. On a retry `sink` is asked again."""
        check_message(message)
        sequence = self._next_sequence
        self._next_sequence += 1
        outstanding = self._outstanding.setdefault(peer, {})
        outstanding[sequence] = None
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline_s):
                if peer == self.peer_id:
                    ours = self._hello()
                    caller = Caller(peer, ours.boot_epoch, ours.roles)
                    return await self._server.answer_ourselves(caller, method, message)
                return await self._attempt(peer, method, message, sink, sequence, deadline_s)
        except TimeoutError as error:
            text = f"{peer} did not answer {method} in {timeout_s:g} s"
            raise PeerTimeout(text) from error
        finally:
            del outstanding[sequence]
            if not outstanding:
                self._outstanding.pop(peer, None)

    async def _attempt(
        self,
        peer: PeerId,
        method: str,
        message: Message,
        sink: Sink | None,
        sequence: int,
        deadline_s: float,
    ) -> Message:
        """Send a request until it is answered; again only if its link broke."""
        specs = tuple(tensor.spec for tensor in message.tensors)
        broken: Connection | None = None
        for _ in range(_MAX_ATTEMPTS):
            link = self._links.get(peer) or await self._link(peer, broken)
            if broken is not None and link.hello.boot_epoch != broken.hello.boot_epoch:
                break
            remaining_s = deadline_s - asyncio.get_running_loop().time()
            timeout_ms = min(max(int(remaining_s * 1000), 1), MAX_TIMEOUT_MS)
            acked = next(iter(self._outstanding[peer]))
            is_retry = broken is not None
            head = RequestHead(method, timeout_ms, sequence, acked, specs, is_retry)
            try:
                return await link.request(head, message, sink)
            except ConnectionClosed:
                if link.end_reason is None:
                    raise  # the peer's answer, not our link
                broken = link
        reason = broken.end_reason if broken is not None else "no link"
        raise ConnectionClosed(f"the link to {peer} broke during {method}: {reason}")

    async def dial(self, address: Address, timeout_s: float) -> Hello:
        """Connect to whoever is at `address`; return what they say about themselves.

        Raises:
            DialError: nobody answered, or it is this daemon itself.
            Refused: another swarm, run, configuration or version; names both values.
            Overloaded: too many links, here or there.
            RemoteProtocolError: no DistQat peer.
        """
        await self._started()
        link = await self._connect(address, timeout_s)
        return link.hello

    async def _link(self, peer: PeerId, broken: Connection | None) -> Connection:
        """Return a link to `peer`, made now; callers that want the same one share the dial."""
        await self._started()
        dial = self._dials.get(peer)
        if dial is None:
            dial = Dial(is_told=broken is not None)
            task = self._spawn(self._dial_peer(peer, dial), "dial")
            self._dials[peer] = dial
            task.add_done_callback(lambda _: self._dial_over(peer))
        await dial.over.wait()
        outcome = dial.outcome
        if isinstance(outcome, Connection):
            return outcome
        if broken is not None:
            text = f"the link to {peer} broke ({broken.end_reason}) and is not back: {outcome}"
            raise ConnectionClosed(text) from outcome
        raise type(outcome)(str(outcome)) from outcome

    def _dial_over(self, peer: PeerId) -> None:
        dial = self._dials.pop(peer)
        dial.over.set()
        is_gone = not self._is_stopping and self._links.get(peer) is None
        if is_gone and dial.lost is not None:
            self._tell_lost(peer, dial.lost)
        elif is_gone and not dial.is_told and isinstance(dial.outcome, DialError):
            self._cannot_reach(peer, str(dial.outcome))

    async def _dial_peer(self, peer: PeerId, dial: Dial) -> None:
        try:
            dial.outcome = await self._try_addresses(peer)
        except DistqatError as error:
            dial.outcome = error

    async def _try_addresses(self, peer: PeerId) -> Connection:
        error: DistqatError = DialError(f"no address of {peer} is known")
        for address in self._book.addresses(peer):
            expected = Address(address.host, address.port, peer)
            try:
                return await self._connect(expected, _DIAL_TIMEOUT_S)
            except DistqatError as failure:
                error = failure
            if (link := self._links.get(peer)) is not None:
                return link  # the peer was faster
        raise error

    async def _connect(self, address: Address, timeout_s: float) -> Connection:
        stream = await self._transport.dial(address, expect=address.peer_id, timeout_s=timeout_s)
        link = self._new_link(stream, dialer=True)
        await self._introduce(link, address)
        try:
            task = self._spawn(link.run(), "link")
        except ConnectionClosed as error:
            link.end(str(error))
            raise
        task.add_done_callback(lambda _: link.end("closed here"))  # also if it never began
        return link

    async def _accept(self, stream: ByteStream) -> None:
        link = self._new_link(stream, dialer=False)
        try:
            await self._introduce(link, None)
        except DistqatError as error:
            fields = {"remote": str(stream.remote), "error": str(error)}
            log.info("peer.not_linked", extra=fields)
            return
        await link.run()

    def _new_link(self, stream: ByteStream, *, dialer: bool) -> Connection:
        return Connection(
            stream,
            dialer=dialer,
            server=self._server,
            budget=self._budget,
            on_end=self._link_ended,
        )

    async def _introduce(self, link: Connection, dialled: Address | None) -> None:
        """Exchange HELLOs and add the link, or close it and say why."""
        try:
            theirs = await link.handshake(self._hello(), self._check)
        except (RemoteProtocolError, asyncio.CancelledError):
            link.stream.abort()
            raise
        except DistqatError as error:
            await link.refuse(Failure(error.wire_code, str(error)))
            raise
        is_new = self._links.add(link, self._clock.now())
        remote = link.stream.remote
        seen = dialled or Address(remote.host, theirs.listen_port)
        addresses = [seen] if seen.port else []
        self._book.learn(theirs.peer_id, [*addresses, *parse_advertised(theirs.addresses)])
        if is_new:
            roles = ",".join(theirs.roles)
            who = theirs.peer_id
            self._events.emit("peer.connected", peer=who, remote=str(remote), roles=roles)

    def _check(self, theirs: Hello) -> None:
        """Refuse who does not belong here."""
        if theirs.peer_id == self.peer_id:
            raise DialError("this address is our own")
        text = mismatch(self._hello(), theirs)
        if text is not None:
            raise Refused(text)
        self._links.check_room()

    def _link_ended(self, link: Connection, reason: str) -> None:
        if not self._links.remove(link) or self._is_stopping:
            return
        if (dial := self._dials.get(link.peer_id)) is not None:
            dial.lost = reason  # they have crossed: the peer may have ended this one for ours
        else:
            self._tell_lost(link.peer_id, reason)

    def _tell_lost(self, peer: PeerId, reason: str) -> None:
        # Who says goodbye leaves in order; only who vanishes is something to look at.
        kind = "peer.left" if reason == STOPPING else "peer.lost"
        self._events.emit(kind, degraded=reason != STOPPING, peer=peer, reason=reason)
        for callback in self._on_lost:
            callback(peer, reason)

    def _cannot_reach(self, peer: PeerId, reason: str) -> None:
        for callback in self._on_lost if self._book.addresses(peer) else ():
            callback(peer, reason)

    async def _started(self) -> None:
        """Wait until `run` has begun: it and its first users are started side by side."""
        if self._is_stopping:
            raise ConnectionClosed("this daemon is stopping")
        await self._running.wait()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        if self._supervisor is None or self._is_stopping:
            work.close()
            raise ConnectionClosed("this daemon is stopping")
        return self._supervisor.spawn(work, name=name)
