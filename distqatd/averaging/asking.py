"""Asking how a round ended, for a member that has voted and does not hear the verdict."""

import asyncio
from collections.abc import Callable, Mapping

from distqatd.averaging.messages import ASK, Verdict, Vote
from distqatd.averaging.tools import Tools
from distqatd.base.errors import DistqatError, RoundAborted
from distqatd.base.ids import ExpertUid, PeerId
from distqatd.wire.fields import need
from distqatd.wire.payload import Message

ASK_EVERY_S = 0.5
"""Least time between two rounds of asking."""


async def ask_all(
    tools: Tools,
    round_id: str,
    others: Mapping[ExpertUid, PeerId],
    conclude: Callable[[Verdict], None],
) -> None:
    """Ask the leader and all members at once; `conclude` is called with every verdict known."""

    async def ask(uid: ExpertUid, peer_id: PeerId) -> None:
        message = Message({"to": uid, "round": round_id})
        timeout_s = max(ASK_EVERY_S, 2 * tools.margin_s)
        try:
            answer = await tools.rpc.call(peer_id, ASK, message, timeout_s=timeout_s)
            if need(answer.body, "known", bool):
                conclude(Verdict.from_body(answer.body))
        except DistqatError:
            # It cannot say; the next round of asking, or the deadline, settles it.
            return

    async with asyncio.TaskGroup() as tasks:
        for uid, peer_id in others.items():
            tasks.create_task(ask(uid, peer_id), name=f"averaging.ask.{uid}")


def outcome(verdict: Verdict | None, vote: Vote, leader: str, silence: str) -> Verdict:
    """Return the verdict of a round that a member has voted in.

    Args:
        verdict: what was heard, None if nothing.
        vote: the member's.
        leader: for messages.
        silence: why the leader says nothing, if known.

    Raises:
        RoundAborted: nobody could say, or it was committed with other bits than the member has.
    """
    if verdict is None:
        raise RoundAborted(
            f"outcome unknown: leader {leader} fell silent after the vote"
            f" ({silence or 'no verdict'}), and no member knows"
        )
    if verdict.committed and verdict.digest != vote.digest:
        raise RoundAborted(f"committed with {verdict.digest[:12]}, we hold {vote.digest[:12]}")
    return verdict
