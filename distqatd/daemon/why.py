"""Why a daemon last did what it did: its own reasons, or another one's, asked over the network."""

from collections.abc import Callable, Iterable
from dataclasses import astuple
from typing import Any, Protocol

from distqatd.base.errors import RemoteProtocolError
from distqatd.base.ids import PeerId
from distqatd.base.reasons import MAX_TEXT, Reason
from distqatd.net.rpc import Caller, Rpc
from distqatd.roles.context import Context
from distqatd.wire.fields import need
from distqatd.wire.payload import Message

WHY = "control.why"
CALL_S = 10.0
MAX_TOLD = 64
"""Reasons that one peer tells another, at most: the newest."""


class Round(Protocol):
    """What is told of a round."""

    @property
    def stage(self) -> str:
        """Return the stage it was of."""
        ...

    @property
    def outer_step(self) -> int:
        """Return the outer step it was for."""
        ...

    @property
    def outcome(self) -> str:
        """Return committed or aborted."""
        ...

    @property
    def reason(self) -> str:
        """Return why it ended so."""
        ...

    @property
    def ended_unix_s(self) -> float:
        """Return when it ended."""
        ...


def own_reasons(context: Context, rounds: Iterable[Round]) -> tuple[Reason, ...]:
    """Return why this daemon did what it did last, the newest first.

    Args:
        context: keeps the reasons of its roles.
        rounds: those it took part in, oldest first; the last one of each stage is told.
    """
    last = {each.stage: each for each in rounds}
    ended = (
        Reason(
            "round",
            each.stage,
            f"outer step {each.outer_step} {each.outcome}: {each.reason}",
            each.ended_unix_s,
        )
        for each in last.values()
    )
    kept = [*context.reasons.all(), *ended]
    return tuple(sorted(kept, key=lambda reason: -reason.time_unix_s))


def serve_why(rpc: Rpc, reasons: Callable[[], tuple[Reason, ...]]) -> None:
    """Tell other members our reasons; there is nothing secret in them."""

    async def answer(_: Caller, __: Message) -> Message:
        return Message({"reasons": [list(astuple(each)) for each in reasons()[:MAX_TOLD]]})

    rpc.serve(WHY, answer, max_bytes=4096)


async def ask_why(rpc: Rpc, peer: PeerId) -> tuple[Reason, ...]:
    """Return another daemon's reasons.

    Raises:
        NetworkError: it does not answer.
        RemoteProtocolError: its answer makes no sense.
    """
    reply = await rpc.call(peer, WHY, Message({}), timeout_s=CALL_S)
    told = need(reply.body, "reasons", list)
    return tuple(_read(each) for each in told[:MAX_TOLD])


def _read(value: Any) -> Reason:
    match value:
        case [str(kind), str(subject), str(text), float(time_unix_s)]:
            return Reason(kind[:MAX_TEXT], subject[:MAX_TEXT], text[:MAX_TEXT], time_unix_s)
        case _:
            raise RemoteProtocolError(f"a reason is {str(value)[:60]!r}")
