"""What can happen on a link, as the session tells its shell."""

from dataclasses import dataclass
from typing import Any

from distqatd.wire.budget import Reservation
from distqatd.wire.messages import Failure, RequestHead
from distqatd.wire.payload import Message


@dataclass(frozen=True, slots=True)
class HelloReceived:
    """The peer introduced itself; always the first event."""

    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RequestReceived:
    """A request has arrived completely; answer with `respond` or `fail`, then release."""

    stream: int
    head: RequestHead
    message: Message
    reservation: Reservation


@dataclass(frozen=True, slots=True)
class ResponseReceived:
    """The answer to our request has arrived completely."""

    stream: int
    message: Message


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """Our request failed at the peer, or its answer could not be taken."""

    stream: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class RequestCancelled:
    """The peer gave up a request of which all had arrived."""

    stream: int


@dataclass(frozen=True, slots=True)
class PongReceived:
    """The answer to our ping."""

    nonce: int


@dataclass(frozen=True, slots=True)
class GoAwayReceived:
    """The peer opens no more streams on this link, and says why."""

    failure: Failure


Event = (
    HelloReceived
    | RequestReceived
    | ResponseReceived
    | RequestFailed
    | RequestCancelled
    | PongReceived
    | GoAwayReceived
)
