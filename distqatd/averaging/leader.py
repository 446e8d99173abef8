"""The leader's side of a round on a loop: it moves messages, `LeaderRound` decides."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from distqatd.averaging.messages import (
    AHEAD,
    BEHIND,
    DIVERGED,
    OPEN,
    PLAN,
    VERDICT,
    Ready,
    Vote,
)
from distqatd.averaging.roster import Member
from distqatd.averaging.round import LeaderRound, Phase, Waiting
from distqatd.averaging.tools import Tools, now
from distqatd.averaging.waits import wait_until
from distqatd.base.errors import DialError, DistqatError, RoundAborted
from distqatd.base.ids import ExpertUid, PeerId
from distqatd.net.rpc import Caller
from distqatd.wire.fields import need
from distqatd.wire.payload import Message


class Leader:
    """Runs one round: opens it to the roster, closes it, collects votes, tells the verdict."""

    def __init__(
        self,
        tools: Tools,
        uid: ExpertUid,
        round_: LeaderRound,
        on_newer: Callable[[ExpertUid, int], None],
        look: Callable[[], Awaitable[Sequence[Member]]],
    ) -> None:
        """Prepare; `run` does the work.

        Args:
            tools: the seams.
            uid: the expert that leads.
            round_: the state machine.
            on_newer: told of a member that has this outer step behind it, and where it is.
            look: reads anew who serves the stage; may raise DistqatError.
        """
        self.uid = uid
        self.round = round_
        self._tools = tools
        self._on_newer = on_newer
        self._look = look
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Lead the round to its verdict and tell it to all members."""
        try:
            await self._gather()
            if self.round.phase is Phase.REDUCING:
                await self._reduce()
        finally:
            # Also when we are cancelled: whoever asks must not hear "still open" for ever.
            self.round.withdraw(f"leader {self.uid} stopped")
            if self.round.verdict is not None:
                self._tools.verdicts.keep(self.round.verdict)
        await self._tell()

    def ready(self, entry: Ready, caller: Caller) -> dict[str, Any]:
        """Take a member in and return the answer to its READY.

        Raises:
            RoundAborted: the round has closed, or it does not fit in.
        """
        self.round.ready(entry, caller.peer_id, now())
        self._changed.set()
        closes_in_s = max(0.0, self.round.closes_at - now())
        return {"round": self.round.round_id, "closes_in": closes_in_s}

    def vote(self, vote: Vote, caller: Caller) -> None:
        """Take a member's vote.

        Raises:
            RemoteProtocolError: it has none here.
        """
        self.round.vote(vote, caller.peer_id)
        self._changed.set()

    def lost(self, peer_id: PeerId, reason: str) -> None:
        """Take note that a peer is gone."""
        self.round.lost(peer_id, reason)
        self._changed.set()

    def withdraw(self, reason: str) -> None:
        """Abort the round because we cannot lead it any more."""
        self.round.withdraw(reason)
        self._changed.set()

    def waiting(self) -> Waiting:
        """Describe the open round."""
        return self.round.waiting(now())

    async def _enroll(self) -> None:
        """Count in whoever serves by now.

        What we knew may be seconds old, and a round that closes without a replica which has
        trained leaves that one behind. If nobody can say, the round goes on with whom we know.
        """
        try:
            async with asyncio.timeout(self._tools.margin_s):
                self.round.enroll(await self._look())
        except (DistqatError, TimeoutError) as error:
            self._tools.events.emit(
                "round.roster_old", degraded=True, expert=self.uid, error=str(error)
            )

    async def _gather(self) -> None:
        await self._enroll()
        async with asyncio.TaskGroup() as tasks:
            calls = [
                tasks.create_task(self._open(uid, peer), name=f"averaging.open.{uid}")
                for uid, peer in self.round.strangers().items()
            ]
            await self._drive(Phase.GATHERING)
            for call in calls:
                call.cancel()

    async def _reduce(self) -> None:
        plan = self.round.plan
        if plan is None:
            raise RoundAborted(f"round {self.round.round_id} has no plan")
        async with asyncio.TaskGroup() as tasks:
            calls = [
                tasks.create_task(self._send_plan(m.uid, m.peer_id), name=f"averaging.plan.{m.uid}")
                for m in plan.members
            ]
            await self._drive(Phase.REDUCING)
            for call in calls:
                call.cancel()

    async def _drive(self, phase: Phase) -> None:
        while True:
            self._changed.clear()
            self.round.advance(now())
            if self.round.phase is not phase:
                return
            await wait_until(self._changed, self.round.wake_at)

    async def _open(self, uid: ExpertUid, peer_id: PeerId) -> None:
        """Tell one member of the roster, so that it hurries, and learn whether it can come."""
        left_s = max(0.0, self.round.closes_at - now())
        body = {
            "to": uid,
            "from": self.uid,
            "stage": self.round.stage,
            "step": self.round.outer_step,
            "anchor": self.round.anchor_digest,
            "seconds": left_s,
        }
        try:
            answer = await self._call(peer_id, OPEN, body, self._tools.margin_s)
            state = need(answer.body, "state", str)
            step = need(answer.body, "step", int)
        except DistqatError as error:
            self.round.excuse(uid, str(error), gone=isinstance(error, DialError))
        else:
            self._heard(uid, state, step)
        self._changed.set()

    def _heard(self, uid: ExpertUid, state: str, step: int) -> None:
        if state == AHEAD:
            self._on_newer(uid, step)
            self.round.overtaken(uid, step)
        elif state == BEHIND:
            self.round.excuse(uid, f"behind, at outer step {step}", behind=True)
        elif state == DIVERGED:
            self.round.excuse(uid, "holds another anchor for this outer step")

    async def _send_plan(self, uid: ExpertUid, peer_id: PeerId) -> None:
        plan = self.round.plan
        if plan is None:
            return
        body = {**plan.to_body(), "to": uid, "seconds": max(0.0, self.round.deadline - now())}
        try:
            await self._call(peer_id, PLAN, body, 2 * self._tools.margin_s)
        except DistqatError as error:
            self.round.fail(uid, f"did not take the plan: {error}")
            self._changed.set()

    async def _tell(self) -> None:
        """Tell the verdict to all members at once; one that cannot be reached will ask."""
        verdict = self.round.verdict
        if verdict is None:
            return
        async with asyncio.TaskGroup() as tasks:
            for uid, peer_id in self._audience():
                body = {**verdict.to_body(), "to": uid}
                tasks.create_task(self._tell_one(peer_id, body), name=f"averaging.tell.{uid}")

    def _audience(self) -> Iterable[tuple[ExpertUid, PeerId]]:
        if self.round.plan is not None:
            return [(member.uid, member.peer_id) for member in self.round.plan.members]
        return self.round.ready_members().items()

    async def _tell_one(self, peer_id: PeerId, body: dict[str, Any]) -> None:
        timeout_s = max(self._tools.margin_s, self.round.deadline - now())
        try:
            await self._call(peer_id, VERDICT, body, timeout_s)
        except DistqatError as error:
            self._tools.events.emit(
                "round.untold", degraded=True, expert=str(body["to"]), error=str(error)
            )

    async def _call(
        self, peer_id: PeerId, method: str, body: dict[str, Any], timeout_s: float
    ) -> Message:
        return await self._tools.rpc.call(peer_id, method, Message(body), timeout_s=timeout_s)
