"""Remote calls between peers, as everybody above `net` sees them."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from distqatd.base.ids import PeerId
from distqatd.net.address import Address
from distqatd.wire.payload import Message
from distqatd.wire.payload import Sink as Sink


@dataclass(frozen=True, slots=True)
class Hello:
    """What a peer says about itself first on every link.

    An empty `swarm_id`, `run_id` or `config_digest` means "not known yet" and matches anything.
    `boot_epoch` changes with every start of the daemon; `listen_port` 0 means it does not listen.
    """

    peer_id: PeerId
    swarm_id: str
    run_id: str
    config_digest: str
    roles: tuple[str, ...]
    addresses: tuple[str, ...]
    boot_epoch: int
    version: int
    listen_port: int


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request: the peer id is proven, the rest is what the peer says."""

    peer_id: PeerId
    boot_epoch: int
    roles: tuple[str, ...]


Handler = Callable[[Caller, Message], Awaitable[Message]]
"""Serves one request. A DistqatError it raises travels to the caller as code and text.

It is cancelled when the caller gives up or the link dies.
"""

OnLost = Callable[[PeerId, str], None]
"""Told that the last link to a peer is gone, and why."""


class Rpc(Protocol):
    """Calls to peers, and handlers for theirs."""

    @property
    def peer_id(self) -> PeerId:
        """Return our own peer id."""
        ...

    def serve(
        self, method: str, handler: Handler, *, max_bytes: int = 1 << 20, sink: Sink | None = None
    ) -> None:
        """Answer requests for `method`; a second call for the same method replaces the first.

        Args:
            method: name, such as `state.chunk`.
            handler: called with who asks and the message; returns the response.
            max_bytes: requests with more bytes, body and tensors together, are refused.
            sink: where to receive the request's tensors; by default fresh buffers.
        """
        ...

    async def call(
        self,
        peer: PeerId,
        method: str,
        message: Message,
        *,
        timeout_s: float,
        sink: Sink | None = None,
    ) -> Message:
        """Ask a peer and return its answer.

        After a broken link the request is sent again on a new one, inside the deadline; the peer
        recognises it and runs it to the end at most once. The tensors of `message` must not
        change before this returns. Our own id is served directly, without a copy.

        Raises:
            PeerTimeout: no answer within `timeout_s` seconds.
            DialError: there is no link and none could be made.
            ConnectionClosed: the link broke and could not be replaced.
            Overloaded: a budget is used up, here or there.
            LocalProtocolError: the message may not travel or is above the method's limit.
            NotServed: the peer has no handler for `method`.
            DistqatError: what the handler raised there, as the class of its `wire_code`.
        """
        ...

    def learn(self, peer: PeerId, addresses: Sequence[Address]) -> None:
        """Remember where a peer may be reached, best first."""
        ...

    def on_lost(self, callback: OnLost) -> None:
        """Have `callback` told when the last link to a peer ended, or none could be made."""
        ...
