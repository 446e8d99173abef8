"""Client mode: nobody can connect to us, so we keep a link to everybody whom we may have to hear.

Links carry calls both ways: once we have made one, its other end calls us like anybody.
"""

import asyncio

from distqatd.base.errors import DistqatError
from distqatd.base.ids import PeerId
from distqatd.roles.context import Context

EVERY_S = 2.0
"""Between two looks at the swarm, seconds; whoever has come is called right after one."""

MAX_REACHED = 64
"""Peers that are kept in touch with, those with the lowest ids if there are more."""


async def reach_out(context: Context) -> None:
    """Knock at every peer that can be connected to, again and again, for ever.

    A link that is there already carries the knock; else it is made for it.
    """
    while True:
        async with asyncio.TaskGroup() as tasks:
            for peer in context.directory.others()[:MAX_REACHED]:
                tasks.create_task(_knock(context, peer), name="outreach.knock")
        await context.directory.next_view()


async def _knock(context: Context, peer: PeerId) -> None:
    try:
        await context.directory.knock(peer)
    except DistqatError:
        return  # the directory hears of links that cannot be made; we try again
