"""A member's side of a round: find a leader, take its plan, exchange, vote, hear the verdict."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from distqatd.averaging.asking import ASK_EVERY_S, ask_all, outcome
from distqatd.averaging.begin import begin
from distqatd.averaging.butterfly import Butterfly, Fault
from distqatd.averaging.looking import Candidates, Stand
from distqatd.averaging.messages import (
    AHEAD,
    CLOSED,
    ELSEWHERE,
    JOINED,
    READY,
    VOTE,
    Ready,
    Verdict,
    Vote,
    aborted,
    take_uid,
)
from distqatd.averaging.plan import Plan
from distqatd.averaging.records import Committed, committed
from distqatd.averaging.roster import leader_order
from distqatd.averaging.tools import Tools, now
from distqatd.averaging.waits import until, wait_until
from distqatd.base.errors import DistqatError, RoundAborted
from distqatd.base.ids import ExpertUid, PeerId
from distqatd.net.rpc import Caller
from distqatd.optim.digest import digest
from distqatd.wire.fields import need
from distqatd.wire.payload import Message


class MemberRound:
    """One call of `Averager.round`: `run` does the work, the averager feeds it what arrives.

    Attributes:
        ready: what we bring, as leaders see it.
        leader: the expert whose round we are in, or are trying to get into.
        plan: the closed round, once there is one.
        missing: members of the roster that took no part, as far as known at the end.
        reason: how it ended.
    """

    def __init__(
        self,
        tools: Tools,
        ready: Ready,
        values: Tensor,
        peers: Mapping[ExpertUid, PeerId],
        opened: Sequence[ExpertUid] = (),
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            tools: the seams.
            ready: what we bring, without the values.
            values: our pseudo-gradient, float32, 1-D, CPU.
            peers: where the experts of the stage are; any of them may have to lead.
            opened: those of them who have opened a round that we could join.
        """
        self.ready = ready
        self.leader: ExpertUid | None = None
        self.plan: Plan | None = None
        self.missing: tuple[ExpertUid, ...] = ()
        self._tools = tools
        self.reason = "given up by its caller"
        self._values = values
        self._peers = dict(peers)
        self._opened = opened
        self._sent_to: ExpertUid | None = None
        self._leader_peer: PeerId | None = None
        self._round_id = ""
        self._stand = Stand.LOOKING
        self._deadline = 0.0
        self._butterfly: Butterfly | None = None
        # Set by everything that may end a wait: plan, verdict, loss of the leader.
        self._stirred = asyncio.Event()
        self._planned = asyncio.Event()
        self._leader_gone = ""
        self._early: dict[str, Verdict] = {}
        self._verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()

    @property
    def whereabouts(self) -> tuple[ExpertUid, PeerId] | None:
        """Return whose round we are in or try to get into, and where that is."""
        if self.leader is None or self._leader_peer is None:
            return None
        return self.leader, self._leader_peer

    @property
    def bytes_sent(self) -> int:
        """Return the tensor bytes sent so far."""
        return self._butterfly.bytes_sent if self._butterfly is not None else 0

    async def run(self) -> Committed:
        """Take part in one round to its end.

        Raises:
            RoundAborted: it did not commit, or nobody could say before the deadline whether it
                had; the message says why and names who was missing or failed.
        """
        began = now()
        try:
            await self._find_leader()
            verdict = await self._take_part()
            self.missing = verdict.missing
            self.reason = verdict.reason
            if not verdict.committed:
                raise RoundAborted(verdict.reason)
            return self._committed(verdict, now() - began)
        finally:
            if self._butterfly is not None:
                text = f"{self.ready.uid} has left round {self._round_id}: {self.reason}"
                self._butterfly.close(text)
            if self._verdict.done():
                self._tools.verdicts.keep(self._verdict.result())

    def take_plan(self, plan: Plan, caller: Caller, seconds_left: float) -> None:
        """Take the plan of the round we are in.

        Raises:
            RoundAborted: we are not waiting for a plan from this peer, or not for this one.
        """
        mine = (self.ready.stage, self.ready.outer_step, self.ready.anchor_digest)
        same = (plan.stage, plan.outer_step, plan.anchor_digest) == mine
        expected = self._stand in (Stand.LOOKING, Stand.WAITING)
        if not (expected and same and caller.peer_id == self._leader_peer):
            raise RoundAborted(f"{self.ready.uid} does not wait for round {plan.round_id}")
        member = plan.members[plan.index_of(self.ready.uid)]
        if member.samples != self.ready.samples or plan.codec != self._tools.config.codec:
            raise RoundAborted(f"the plan has other samples or codec than {self.ready.uid}")
        if plan.num_coded != self.ready.num_coded:
            raise RoundAborted(f"the plan codes other elements than {self.ready.uid}")
        if missing := self.ready.batches.minus(plan.batches):
            raise RoundAborted(f"the plan leaves out batches {missing} of {self.ready.uid}")
        self._butterfly = begin(self._tools, plan, self.ready.uid, self._values)
        self.plan = plan
        self._enter(plan.round_id)
        self._deadline = now() + min(seconds_left, self._tools.config.averaging_timeout)
        self._stand = Stand.EXCHANGING
        self._planned.set()
        self._stirred.set()

    def take_verdict(self, verdict: Verdict, caller: Caller) -> None:
        """Take the leader's verdict; one of a round that we are not in yet is kept for later."""
        if caller.peer_id != self._leader_peer:
            return
        if verdict.round_id == self._round_id:
            self._conclude(verdict)
        elif len(self._early) < 8:
            self._early[verdict.round_id] = verdict

    async def answer_chunk(self, caller: Caller, message: Message, member: ExpertUid) -> Message:
        """Serve another member's chunk; waits a moment for the plan, which may come later.

        Raises:
            RoundAborted: we are not in this round, or it has ended.
            RemoteProtocolError: the request does not fit the plan.
        """
        await wait_until(self._planned, now() + self._tools.margin_s)
        plan, butterfly = self.plan, self._butterfly
        round_id = need(message.body, "round", str)
        if plan is None or butterfly is None or plan.round_id != round_id:
            raise RoundAborted(f"{self.ready.uid} is not in round {round_id}")
        if plan.peer_of(member) != caller.peer_id:
            raise RoundAborted(f"{member} is on another peer in round {round_id}")
        return await butterfly.answer(plan.index_of(member), message.body, message)

    def lost(self, peer_id: PeerId, reason: str) -> None:
        """Take note that a peer is gone."""
        if peer_id == self._leader_peer:
            self._lost_leader(reason)
        elif self._stand is Stand.EXCHANGING and self.plan is not None and self._butterfly:
            for member in self.plan.members:
                if member.peer_id == peer_id:
                    self._butterfly.fail(member.uid, reason)

    def _lost_leader(self, reason: str) -> None:
        self._leader_gone = reason
        if self._stand is Stand.EXCHANGING:
            # Without our vote nobody can have committed, so this is certain.
            text = f"leader {self.leader} was lost: {reason}"
            self._conclude(aborted(self._round_id, text))
        self._stirred.set()

    def _conclude(self, verdict: Verdict) -> None:
        if not self._verdict.done():
            self._verdict.set_result(verdict)
        self._stirred.set()

    def _enter(self, round_id: str) -> None:
        self._round_id = round_id
        if round_id in self._early:
            self._conclude(self._early[round_id])

    # Finding a leader.

    async def _find_leader(self) -> None:
        give_up_at = now() + self._tools.config.averaging_timeout
        tried: list[str] = []
        stage, step = self.ready.stage, self.ready.outer_step
        candidates = Candidates(self._opened, leader_order(stage, step, self._peers))
        while (uid := candidates.next()) is not None and now() < give_up_at:
            reason = await self._try_leader(uid)
            if self.plan is not None or self._verdict.done():
                return
            if self._sent_to is not None:
                candidates.redirect(uid, self._sent_to)
                continue
            self._tools.events.emit("round.leader_skipped", expert=uid, stage=stage, reason=reason)
            tried.append(f"{uid} ({reason})")
        raise RoundAborted(f"no leader for the next outer step after {step}: {', '.join(tried)}")

    async def _try_leader(self, uid: ExpertUid) -> str:
        """Ask one expert to count us in and wait for its plan; return why that failed."""
        self.leader, self._leader_peer, self._leader_gone = uid, self._peers[uid], ""
        self._stand, self._sent_to = Stand.LOOKING, None
        try:
            answer = await self._call(self._leader_peer, READY, {**self.ready.to_body(), "to": uid})
            state = need(answer.body, "state", str)
            if state == JOINED:
                self._stand = Stand.WAITING if self.plan is None else self._stand
                closes_in_s = need(answer.body, "closes_in", float)
                return await self._await_plan(need(answer.body, "round", str), closes_in_s)
            if state == ELSEWHERE:
                self._sent_to = take_uid(answer.body, "leader")
                self._peers[self._sent_to] = PeerId(need(answer.body, "peer", str))
        except DistqatError as error:
            return self._leave(str(error))
        if state == AHEAD:
            step = need(answer.body, "step", int)
            raise RoundAborted(
                f"{self.ready.uid} is behind: {uid} is at outer step {step}, past"
                f" {self.ready.outer_step}; it must take over the newer state"
            )
        if state == CLOSED:
            raise RoundAborted(f"the round of {uid} closed without {self.ready.uid}")
        return self._leave(state)

    async def _await_plan(self, round_id: str, closes_in_s: float) -> str:
        if self.plan is None:
            self._enter(round_id)
        margin_s = self._tools.margin_s
        wait_s = min(closes_in_s, self._tools.config.averaging_timeout) + 2 * margin_s
        until_time = now() + wait_s
        while self.plan is None and not self._verdict.done() and not self._leader_gone:
            self._stirred.clear()
            if not await wait_until(self._stirred, until_time):
                return self._leave(f"no plan within {wait_s:.1f} s")
        return self._leave(self._leader_gone) if self._leader_gone else ""

    def _leave(self, reason: str) -> str:
        """Stop listening to a leader; its plan is refused from now on, which ends its round."""
        if self.plan is None:
            self._leader_peer, self._round_id = None, ""
        return reason

    # Taking part.

    async def _take_part(self) -> Verdict:
        plan, butterfly = self.plan, self._butterfly
        if plan is None or butterfly is None:
            return self._verdict.result()
        report_in_s = max(0.0, self._deadline - 3 * self._tools.margin_s - now())
        fault = await until(butterfly.run(report_in_s), self._verdict)
        if self._verdict.done():
            return self._aborted_before_vote()
        vote = await self._make_vote(plan, butterfly, fault)
        if self._verdict.done():
            return self._aborted_before_vote()
        self._stand = Stand.VOTED
        answered = await until(self._send_vote(vote), self._verdict)
        if fault is None:
            await self._await_verdict(ask_now=not answered)
        else:
            # The leader may know better whose fault it was; that it aborts is certain.
            await asyncio.wait([self._verdict], timeout=self._tools.margin_s)
            text = f"{', '.join(fault.blamed)} failed: {fault.reason}"
            self._conclude(aborted(self._round_id, text))
        verdict = self._verdict.result() if self._verdict.done() else None
        return outcome(verdict, vote, f"{self.leader}", self._leader_gone)

    def _aborted_before_vote(self) -> Verdict:
        verdict = self._verdict.result()
        if verdict.committed:
            raise RoundAborted(f"leader {self.leader} committed without the vote of a member")
        return verdict

    async def _make_vote(self, plan: Plan, butterfly: Butterfly, fault: Fault | None) -> Vote:
        if fault is not None:
            return Vote(plan.round_id, self.ready.uid, "", fault.blamed, fault.reason)
        held = await self._tools.executor.run(lambda: digest(butterfly.mean))
        return Vote(plan.round_id, self.ready.uid, held)

    async def _send_vote(self, vote: Vote) -> bool:
        if self._leader_peer is None:
            return False
        body, left_s = {**vote.to_body(), "to": self.leader}, max(0.1, self._deadline - now())
        try:
            await self._call(self._leader_peer, VOTE, body, left_s)
        except DistqatError as error:
            self._leader_gone = self._leader_gone or str(error)
            return False
        return True

    async def _await_verdict(self, *, ask_now: bool) -> None:
        """Wait for the verdict; if the leader is gone or late, ask it and all others for it."""
        margin_s = self._tools.margin_s
        ask_at = now() if ask_now else self._deadline - 1.5 * margin_s
        while not self._verdict.done() and now() < self._deadline:
            self._stirred.clear()
            if not self._leader_gone and await wait_until(self._stirred, ask_at):
                continue
            await until(self._ask_all(), self._verdict)
            pause_s = max(ASK_EVERY_S, margin_s / 4)
            self._stirred.clear()
            if not self._verdict.done():
                await wait_until(self._stirred, min(self._deadline, now() + pause_s))
            ask_at = now()

    async def _ask_all(self) -> None:
        others = {m.uid: m.peer_id for m in self.plan.members} if self.plan is not None else {}
        if self.leader is not None and self._leader_peer is not None:
            others[self.leader] = self._leader_peer
        others.pop(self.ready.uid, None)
        await ask_all(self._tools, self._round_id, others, self._conclude)

    def _committed(self, verdict: Verdict, seconds: float) -> Committed:
        plan, butterfly = self.plan, self._butterfly
        if plan is None or butterfly is None:
            raise RoundAborted(f"round {verdict.round_id} committed before its plan came")
        return committed(plan, butterfly, verdict.digest, seconds)

    async def _call(
        self, peer_id: PeerId, method: str, body: dict[str, Any], timeout_s: float = 0.0
    ) -> Message:
        wait_s = timeout_s or self._tools.margin_s
        return await self._tools.rpc.call(peer_id, method, Message(body), timeout_s=wait_s)
