"""What carrying out an order needs of an expert's role; `roles.expert.ExpertRole` has it."""

from typing import Protocol

from distqatd.swarm.placement import Slot


class Outcome(Protocol):
    """How an expert's drain, resume or move ended."""

    @property
    def is_done(self) -> bool:
        """Return whether it did what it was told."""
        ...

    @property
    def reason(self) -> str:
        """Return why it is so, with the values that mattered."""
        ...

    @property
    def num_dropped(self) -> int:
        """Return the samples that the deadline cost."""
        ...

    @property
    def num_cut(self) -> int:
        """Return the sessions of trainers that the deadline cut."""
        ...


class Movable(Protocol):
    """What control needs of an expert's role."""

    @property
    def slot(self) -> Slot | None:
        """Return its place in the swarm, if it has one."""
        ...

    @property
    def state(self) -> str:
        """Return what it does now: joining, serving, draining or drained."""
        ...

    async def drain(self, *, deadline_s: float, reason: str) -> Outcome:
        """Leave the stage without losing work."""
        ...

    async def resume(self) -> Outcome:
        """Serve again, or stay if the expert is about to leave."""
        ...

    async def reassign(self, stage: str, *, deadline_s: float, reason: str) -> Outcome:
        """Drain, then serve another stage."""
        ...
