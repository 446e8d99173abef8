"""The leader's side of a round on a loop: it moves messages, `LeaderRound` decides."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from distqatd.averaging.ballots import Learn, voter_id
from distqatd.averaging.messages import (
    ACCEPT,
    AHEAD,
    BEHIND,
    DIVERGED,
    OPEN,
    PLAN,
    PREPARE,
    VERDICT,
    Ready,
    Vote,
    take_chosen,
)
from distqatd.averaging.phases import Phase, Waiting
from distqatd.averaging.proposer import Event, Refusal
from distqatd.averaging.replies import read_acceptance, read_promise
from distqatd.averaging.roster import Member
from distqatd.averaging.round import LeaderRound
from distqatd.averaging.speech import write_ballot, write_value
from distqatd.averaging.tools import Tools, now
from distqatd.averaging.waits import wait_until
from distqatd.base.errors import DialError, DistqatError, RoundAborted
from distqatd.base.ids import ExpertUid, PeerId
from distqatd.net.rpc import Caller
from distqatd.wire.fields import need
from distqatd.wire.payload import Message


class Leader:
    """Runs one round: opens it, closes it, collects votes, has the value accepted, tells all."""

    def __init__(
        self,
        tools: Tools,
        uid: ExpertUid,
        round_: LeaderRound,
        on_newer: Callable[[ExpertUid, int], None],
        look: Callable[[], Awaitable[Sequence[Member]]],
        above: int = 0,
    ) -> None:
        """Prepare; `run` does the work.

        Args:
            tools: the seams.
            uid: the expert that leads.
            round_: the state machine.
            on_newer: told of a member that has this outer step behind it, and where it is.
            look: reads anew who serves the stage; may raise DistqatError.
            above: a ballot that others are known to have promised.
        """
        self.uid = uid
        self.round = round_
        self._tools = tools
        self._on_newer = on_newer
        self._look = look
        self._above = above
        self._changed = asyncio.Event()
        self._bound = asyncio.Event()

    @property
    def outbid(self) -> int:
        """Return the number of the highest ballot that we know to be promised."""
        return self._above

    async def run(self) -> None:
        """Lead the round to its verdict and tell it to all members.

        Raises:
            CheckpointError: our own promises cannot be kept on disk.
        """
        try:
            await self._gather()
            if self.round.phase is Phase.REDUCING:
                await self._reduce()
            if self.round.phase is Phase.ACCEPTING:
                await self._accept()
        except DistqatError as error:
            self.round.give_up(f"leader {self.uid} cannot go on: {error}")
            await self._tell()
            raise
        finally:
            # Also when we are cancelled: nobody may take us for a leader any more.
            self.round.give_up(f"leader {self.uid} stopped")
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
        """End the round because we cannot lead it any more."""
        self.round.give_up(reason)
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
        own = voter_id(self.uid, self._tools.rpc.peer_id)
        ledger = self._tools.ledger
        self.round.begin(await ledger.reserve(self.uid, self.round.key, own, self._above))
        async with asyncio.TaskGroup() as tasks:
            calls = [
                tasks.create_task(self._send_plan(m.uid, m.peer_id), name=f"averaging.plan.{m.uid}")
                for m in plan.members
            ]
            calls.append(tasks.create_task(self._ask_unheard(), name="averaging.prepare"))
            await self._drive(Phase.REDUCING)
            for call in calls:
                call.cancel()

    async def _accept(self) -> None:
        """Have the members accept the value; over when a quorum has, or all have answered."""
        plan = self.round.plan
        async with asyncio.TaskGroup() as tasks:
            calls = [
                tasks.create_task(self._propose(m.uid, m.peer_id), name=f"averaging.accept.{m.uid}")
                for m in (plan.members if plan is not None else ())
            ]
            calls.append(tasks.create_task(self._when_all_said(calls[:]), name="averaging.said"))
            await self._drive(Phase.ACCEPTING)
            for call in calls:
                call.cancel()

    async def _when_all_said(self, calls: Sequence["asyncio.Task[None]"]) -> None:
        await asyncio.wait(calls)
        self.round.advance(now())
        self.round.give_up("no quorum of the voters has accepted; another ballot will tell")
        self._changed.set()

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
            chosen = take_chosen(answer.body) if state == AHEAD else None
        except DistqatError as error:
            self.round.excuse(uid, str(error), gone=isinstance(error, DialError))
        else:
            self._heard(uid, state, step, chosen)
        self._changed.set()

    def _heard(self, uid: ExpertUid, state: str, step: int, chosen: Learn | None) -> None:
        if state == AHEAD:
            self._on_newer(uid, step)
            self.round.overtaken(uid, step, chosen)
        elif state == BEHIND:
            self.round.excuse(uid, f"behind, at outer step {step}", behind=True)
        elif state == DIVERGED:
            self.round.excuse(uid, "holds another anchor for this outer step")

    async def _send_plan(self, uid: ExpertUid, peer_id: PeerId) -> None:
        plan, ballot = self.round.plan, self.round.ballot
        if plan is None or ballot is None:
            return
        left_s = max(0.0, self.round.deadline - now())
        body = {**plan.to_body(), "seconds": left_s, "ballot": write_ballot(ballot.ballot)}
        try:
            answer = await self._call(peer_id, PLAN, {**body, "to": uid}, 2 * self._tools.margin_s)
            self._hear(read_promise(answer.body, voter_id(uid, peer_id)))
        except DistqatError as error:
            self.round.fail(uid, f"did not take the plan: {error}")
        self._changed.set()

    async def _ask_unheard(self) -> None:
        """Ask those outside of the round who may hold what an earlier ballot has left."""
        asked: set[ExpertUid] = set()
        async with asyncio.TaskGroup() as tasks:
            while True:
                unheard = self.round.unheard()
                for uid in sorted(unheard.keys() - asked):
                    tasks.create_task(self._prepare(uid, unheard[uid]), name=f"prepare.{uid}")
                asked |= unheard.keys()
                self._bound.clear()
                await self._bound.wait()

    async def _prepare(self, uid: ExpertUid, peer_id: PeerId) -> None:
        if (ballot := self.round.ballot) is None:
            return
        key = self.round.key
        body = {
            "to": uid,
            "stage": key.stage,
            "step": key.outer_step,
            "anchor": key.anchor_digest,
            "ballot": write_ballot(ballot.ballot),
        }
        try:
            answer = await self._call(peer_id, PREPARE, body, self._tools.margin_s)
            self._hear(read_promise(answer.body, voter_id(uid, peer_id)))
        except DistqatError as error:
            self.round.deaf(uid, peer_id)
            self._tools.events.emit("round.unheard", degraded=True, expert=uid, error=str(error))
        self._changed.set()

    async def _propose(self, uid: ExpertUid, peer_id: PeerId) -> None:
        ballot = self.round.ballot
        if ballot is None or ballot.value is None:
            return
        fields = {"ballot": write_ballot(ballot.ballot), "value": write_value(ballot.value)}
        try:
            answer = await self._call(
                peer_id, ACCEPT, {**fields, "to": uid}, 2 * self._tools.margin_s
            )
            self._hear(read_acceptance(answer.body, voter_id(uid, peer_id)))
        except DistqatError as error:
            self._tools.events.emit(
                "round.not_accepted", degraded=True, expert=uid, error=str(error)
            )
        self._changed.set()

    def _hear(self, event: Event) -> None:
        if isinstance(event, Refusal):
            self._above = max(self._above, event.promised.number)
        self.round.hear(event)
        self._bound.set()

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
        """Return who is told: all that were in it; of a step that was taken, the whole stage."""
        told = self.round.ready_members()
        verdict = self.round.verdict
        if verdict is not None and verdict.committed:
            told |= self.round.strangers()
        return told.items()

    async def _tell_one(self, peer_id: PeerId, body: dict[str, Any]) -> None:
        try:
            await self._call(peer_id, VERDICT, body, 2 * self._tools.margin_s)
        except DistqatError as error:
            self._tools.events.emit(
                "round.untold", degraded=True, expert=str(body["to"]), error=str(error)
            )

    async def _call(
        self, peer_id: PeerId, method: str, body: dict[str, Any], timeout_s: float
    ) -> Message:
        return await self._tools.rpc.call(peer_id, method, Message(body), timeout_s=timeout_s)
