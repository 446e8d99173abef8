"""A second look at what seems to be gone: our own link may be all that is broken."""

import asyncio

from distqatd.base.decision import Decision
from distqatd.base.errors import DistqatError
from distqatd.base.ids import PeerId
from distqatd.roles.context import Context
from distqatd.roles.directory import SEES
from distqatd.wire.fields import need
from distqatd.wire.payload import Message

NUM_ASKED = 3
ANSWER_S = 4.0
"""So many other peers are asked, and so long, in seconds."""


async def confirm_gone(context: Context, peer: PeerId) -> Decision[bool]:
    """Decide whether a peer that does not answer us is gone: nobody who answers reaches it."""
    return await _confirm(context, Message({"peer": peer, "stage": ""}), peer)


async def confirm_gap(context: Context, stage: str) -> Decision[bool]:
    """Decide whether a stage has no expert: nobody who answers reaches one."""
    return await _confirm(context, Message({"peer": "", "stage": stage}), PeerId(""))


async def _confirm(context: Context, question: Message, suspect: PeerId) -> Decision[bool]:
    others = [peer for peer in context.directory.others() if peer != suspect]
    asked = context.rng.sample(others, min(NUM_ASKED, len(others)))
    answers: dict[PeerId, bool] = {}
    async with asyncio.TaskGroup() as tasks:
        for peer in asked:
            tasks.create_task(_ask(context, peer, question, answers))
    seeing = sorted(peer for peer, sees in answers.items() if sees)
    if seeing:
        return Decision(value=False, reason=f"{seeing[0]} reaches what we do not")
    if not answers:
        return Decision(value=True, reason=f"none of {len(asked)} other peers answers us")
    return Decision(value=True, reason=f"{len(answers)} other peers see the same")


async def _ask(
    context: Context, peer: PeerId, question: Message, answers: dict[PeerId, bool]
) -> None:
    try:
        reply = await context.rpc.call(peer, SEES, question, timeout_s=ANSWER_S)
        answers[peer] = need(reply.body, "sees", bool)
    except DistqatError:
        return  # not a vantage point
