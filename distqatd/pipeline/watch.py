"""Watches over a step: a stage that is gone or hangs must not hold it for minutes.

The links notice a process that dies at once, and a machine that falls silent in 15 s. A process
that hangs keeps its links; nobody but the trainer can tell it from one that computes, and only by
what this route normally takes. So a late step is no failure yet: every stage is asked where it
stands, which needs its event loop but not its device, and who does not answer is lost.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from distqatd.base.errors import HopLost, NetworkError, PeerTimeout
from distqatd.base.ids import PeerId
from distqatd.pipeline.messages import Standing
from distqatd.pipeline.patience import step_patience
from distqatd.pipeline.together import all_of
from distqatd.swarm.routes import Hop, Route

ASK_S = 2.0
"""A stage that does not say where it stands within this many seconds counts as lost."""

Ask = Callable[[Hop, float], Awaitable[Standing]]
"""Asks a stage where it stands, within seconds."""


class Watch:
    """The watch over one route.

    Args:
        route: whom it watches.
        ask: asks one of them where it stands; raises a NetworkError if it does not answer.
        cap_s: a step never takes longer, rounds not counted.
    """

    def __init__(self, route: Route, ask: Ask, cap_s: float) -> None:
        self._route = route
        self._ask = ask
        self._cap_s = cap_s
        self._suspects: dict[PeerId, str] = {}
        self._stirred = asyncio.Event()

    def lost(self, peer_id: PeerId, reason: str) -> None:
        """Take note that the link to a peer broke: if it is in the route, it is asked at once."""
        if any(hop.peer_id == peer_id for hop in self._route):
            self._suspects[peer_id] = reason
            self._stirred.set()

    async def run(self, steps_s: Sequence[float]) -> None:
        """Watch until cancelled.

        Args:
            steps_s: what the last steps of this route took.

        Raises:
            HopLost: a stage is gone or does not answer.
            PeerTimeout: all answer, but the step has taken too long.
        """
        loop = asyncio.get_running_loop()
        decision = step_patience(steps_s, self._cap_s)
        patience = decision.value
        began = loop.time()
        while True:
            await self._pause(patience.ask_s)
            took_s = loop.time() - began
            if await self._is_in_round():
                began = loop.time()  # no step moves while a stage takes part in a round
            elif took_s >= patience.give_up_s:
                raise PeerTimeout(f"the step has taken {took_s:.1f} s; {decision.reason}")

    async def _pause(self, seconds: float) -> None:
        """Wait, but not if a link of the route breaks; then ask its peer first."""
        try:
            async with asyncio.timeout(seconds):
                await self._stirred.wait()
        except TimeoutError:
            return
        suspects, self._suspects = self._suspects, {}
        self._stirred.clear()
        hops = [hop for hop in self._route if hop.peer_id in suspects]
        await all_of(self._check(hop, suspects[hop.peer_id]) for hop in hops)

    async def _is_in_round(self) -> bool:
        found: list[bool] = []

        async def one(hop: Hop) -> None:
            found.append((await self._standing(hop, "it is late")).in_round)

        await all_of(one(hop) for hop in self._route)
        return any(found)

    async def _check(self, hop: Hop, reason: str) -> None:
        await self._standing(hop, reason)

    async def _standing(self, hop: Hop, reason: str) -> Standing:
        try:
            return await self._ask(hop, ASK_S)
        except NetworkError as error:
            raise HopLost(f"{hop.uid} is lost ({reason}): {error}", hop.uid) from error
