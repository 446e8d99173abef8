"""An expert's role as control sees it: does what it is told, and remembers it."""

import asyncio
from dataclasses import dataclass, field

from distqatd.base.ids import parse_uid
from distqatd.swarm.placement import Slot


@dataclass
class Outcome:
    is_done: bool = True
    reason: str = "left after 1.0 s"
    num_dropped: int = 0
    num_cut: int = 0


@dataclass
class FakeExpert:
    """Serves `uid`; a drain takes `drain_s` of loop time and ends with `outcome`."""

    uid: str
    drain_s: float = 0.0
    outcome: Outcome = field(default_factory=Outcome)
    state: str = "serving"
    told: list = field(default_factory=list)

    @property
    def slot(self):
        return Slot(*parse_uid(self.uid)) if self.uid else None

    async def drain(self, *, deadline_s, reason):
        self.told.append(("drain", deadline_s, reason))
        self.state = "draining"
        await asyncio.sleep(self.drain_s)
        self.state, self.uid = "drained", ""
        return self.outcome

    async def resume(self):
        self.told.append(("resume",))
        self.state = "serving"
        return self.outcome

    async def reassign(self, stage, *, deadline_s, reason):
        self.told.append(("reassign", stage, deadline_s, reason))
        await asyncio.sleep(self.drain_s)
        self.uid = f"{stage}.0.7.0"
        return self.outcome


def see(context, view):
    """Have a daemon see the swarm like this whenever it looks."""

    async def look():
        return view

    context.directory.view, context.directory.refresh_experts = view, look
