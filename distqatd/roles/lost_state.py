"""Whether the state of a stage that nobody can be reached for may come back."""

import asyncio

from distqatd.base.decision import Decision
from distqatd.base.errors import DistqatError, NothingListens
from distqatd.base.ids import PeerId
from distqatd.roles.context import Context

LOST_STAGE_S = 45.0
"""So long whoever has seen a stage further waits for those who hold that state, if they are only
out of reach: all that the stage has learned is lost when it starts from the seed. Longer than it
takes two halves of a swarm to find each other again."""


async def may_come_back(context: Context, stage: str, outer_step: int) -> Decision[bool]:
    """Decide whether somebody out of reach may hold the stage beyond `outer_step`.

    A machine that says that no daemon listens there has lost its daemon, and the state with it;
    one that says nothing may be cut off. We hold nothing ourselves: we are the one who asks.
    """
    seen, _ = context.directory.advanced_at.get(stage, (0, 0.0))
    if seen <= outer_step:
        return Decision(value=False, reason=f"nobody was seen past outer step {outer_step}")
    silent: set[PeerId] = set()
    async with asyncio.TaskGroup() as tasks:
        for peer in sorted(context.directory.holders.get(stage, frozenset()) - {context.peer_id}):
            tasks.create_task(_note_silent(context, peer, silent))
    if not silent:
        return Decision(value=False, reason=f"all who were at outer step {seen} are gone")
    return Decision(
        value=True, reason=f"{min(silent)} was at outer step {seen} and is out of reach"
    )


async def _note_silent(context: Context, peer: PeerId, silent: set[PeerId]) -> None:
    try:
        await context.directory.knock(peer)
    except NothingListens:
        return
    except DistqatError:
        silent.add(peer)
