"""A second look at what seems to be gone: our own link may be all that is broken."""

import asyncio
from collections.abc import Mapping

from distqatd.base.decision import Decision
from distqatd.base.errors import DistqatError
from distqatd.base.ids import PeerId
from distqatd.roles.context import Context
from distqatd.roles.directory import SEES
from distqatd.wire.fields import need
from distqatd.wire.payload import Message

NUM_ASKED = 3
ANSWER_S = 4.0
"""So many other peers are asked at a time, and so long, in seconds."""

MAX_ASKED = 9
"""While none of them answers others are asked, so many in all: many may have died at once."""


async def confirm_gone(context: Context, peer: PeerId) -> Decision[bool]:
    """Decide whether a peer that does not answer us is gone: nobody who answers reaches it.

    Where nobody answers, our own eyes count.
    """
    answers, num_asked = await _answers(context, Message({"peer": peer, "stage": ""}), peer)
    if not answers:
        return Decision(value=True, reason=f"none of {num_asked} other peers answers us")
    return _verdict(answers)


async def confirm_gap(context: Context, stage: str) -> Decision[bool]:
    """Decide whether a stage has no expert: nobody who answers reaches one.

    Where there are others and none of them answers, it may be our own line that is broken: then
    nobody moves for it.
    """
    answers, num_asked = await _answers(context, Message({"peer": "", "stage": stage}))
    if not answers and num_asked:
        reason = f"none of {num_asked} other peers answers: we may be the one who is cut off"
        return Decision(value=False, reason=reason)
    return _verdict(answers)


def _verdict(answers: Mapping[PeerId, bool]) -> Decision[bool]:
    seeing = sorted(peer for peer, sees in answers.items() if sees)
    if seeing:
        return Decision(value=False, reason=f"{seeing[0]} reaches what we do not")
    return Decision(value=True, reason=f"{len(answers)} other peers see the same")


async def _answers(
    context: Context, question: Message, suspect: PeerId | None = None
) -> tuple[dict[PeerId, bool], int]:
    """Return who says what, as soon as anybody says something, and how many were asked."""
    left = [peer for peer in context.directory.others() if peer != suspect]
    answers: dict[PeerId, bool] = {}
    num_asked = 0
    while left and not answers and num_asked < MAX_ASKED:
        asked = context.rng.sample(left, min(NUM_ASKED, len(left)))
        async with asyncio.TaskGroup() as tasks:
            for peer in asked:
                tasks.create_task(_ask(context, peer, question, answers))
        left = [peer for peer in left if peer not in asked]
        num_asked += len(asked)
    return answers, num_asked


async def _ask(
    context: Context, peer: PeerId, question: Message, answers: dict[PeerId, bool]
) -> None:
    try:
        reply = await context.rpc.call(peer, SEES, question, timeout_s=ANSWER_S)
        answers[peer] = need(reply.body, "sees", bool)
    except DistqatError:
        return  # not a vantage point
