"""One ballot of a member's round: find a leader, take its plan, exchange, vote, hear the end."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any

from torch import Tensor

from distqatd.averaging.begin import begin
from distqatd.averaging.butterfly import Butterfly, Fault
from distqatd.averaging.looking import Candidates, Places, Stand
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
    take_chosen,
    take_uid,
)
from distqatd.averaging.plan import Plan
from distqatd.averaging.progress import Progress
from distqatd.averaging.tools import Tools, now
from distqatd.averaging.waits import until, wait_until
from distqatd.base.errors import DistqatError, RoundAborted
from distqatd.base.ids import ExpertUid, PeerId
from distqatd.net.rpc import Caller
from distqatd.optim.digest import digest
from distqatd.wire.fields import need
from distqatd.wire.payload import Message

Keep = Callable[[Plan, Butterfly, str], None]
"""Told (plan, exchange, digest of its mean) of what we are about to vote for."""


class Attempt:
    """`run` does the work; the member's round feeds it what arrives.

    A member may leave an attempt at any time, also after its vote: what it has accepted is on
    disk, and whoever leads the next ballot learns of it.

    Attributes:
        leader: the expert whose round we are in, or are trying to get into.
        plan: the closed round, once there is one.
        stand: where we are.
        lost_leader: the leader whose link broke, or who fell silent, if one did.
    """

    def __init__(
        self,
        tools: Tools,
        ready: Ready,
        values: Tensor,
        places: Places,
        keep: Keep,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            tools: the seams.
            ready: what we bring, without the values.
            values: our pseudo-gradient, float32, 1-D, CPU.
            places: where the experts of the stage are; any of them may have to lead.
            keep: see Keep.
        """
        self.leader: ExpertUid | None = None
        self.plan: Plan | None = None
        self.stand = Stand.LOOKING
        self.lost_leader: ExpertUid | None = None
        self._tools = tools
        self._ready = ready
        self._values = values
        self._places = places
        self._peers = dict(places.peers)
        self._keep = keep
        self._sent_to: ExpertUid | None = None
        self._leader_peer: PeerId | None = None
        self._round_id = ""
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
        is_over = self._verdict.done() or self._leader_gone
        if self.leader is None or self._leader_peer is None or is_over:
            return None
        return self.leader, self._leader_peer

    @property
    def seconds_left(self) -> float:
        """Return how long we wait for the leader at most."""
        return max(0.0, self._deadline - now())

    @property
    def progress(self) -> Progress | None:
        """Return how far the exchange is, while there is one."""
        is_running = self.stand is Stand.EXCHANGING and not self._verdict.done()
        return self._butterfly.progress if is_running and self._butterfly is not None else None

    @property
    def bytes_sent(self) -> int:
        """Return the tensor bytes sent so far."""
        return self._butterfly.bytes_sent if self._butterfly is not None else 0

    async def run(self, opened: Sequence[ExpertUid], shunned: Collection[ExpertUid]) -> Verdict:
        """Take part in one ballot to its end.

        Args:
            opened: who has opened a round that we could join.
            shunned: who is asked last to lead: they were lost a moment ago.

        Raises:
            RoundAborted: there is no round for us: nobody leads, or the others are ahead.
        """
        try:
            await self._find_leader(opened, shunned)
            return await self._take_part()
        finally:
            if self._butterfly is not None:
                self._butterfly.close(f"{self._ready.uid} has left round {self._round_id}")

    def conclude(self, verdict: Verdict) -> None:
        """End with this verdict; the first one counts."""
        if not self._verdict.done():
            self._verdict.set_result(verdict)
        self._stirred.set()

    def take_plan(self, plan: Plan, caller: Caller, seconds_left: float) -> None:
        """Take the plan of the round we are in.

        Raises:
            RoundAborted: we are not waiting for a plan from this peer, or not for this one.
        """
        mine = (self._ready.stage, self._ready.outer_step, self._ready.anchor_digest)
        same = (plan.stage, plan.outer_step, plan.anchor_digest) == mine
        if self.plan is not None and self.plan == plan and caller.peer_id == self._leader_peer:
            return  # it was sent twice
        expected = self.stand in (Stand.LOOKING, Stand.WAITING)
        if not (expected and same and caller.peer_id == self._leader_peer):
            raise RoundAborted(f"{self._ready.uid} does not wait for round {plan.round_id}")
        member = plan.members[plan.index_of(self._ready.uid)]
        if member.samples != self._ready.samples or plan.codec != self._tools.config.codec:
            raise RoundAborted(f"the plan has other samples or codec than {self._ready.uid}")
        sections = (self._ready.num_coded, self._ready.num_averaged)
        if (plan.num_coded, plan.num_averaged) != sections:
            raise RoundAborted(f"the plan has other sections than {self._ready.uid}")
        if missing := self._ready.batches.minus(plan.batches):
            raise RoundAborted(f"the plan leaves out batches {missing} of {self._ready.uid}")
        self._butterfly = begin(self._tools, plan, self._ready.uid, self._values)
        self.plan = plan
        self._enter(plan.round_id)
        self._deadline = now() + min(seconds_left, self._tools.config.averaging_timeout)
        self.stand = Stand.EXCHANGING
        self._planned.set()
        self._stirred.set()

    def take_verdict(self, verdict: Verdict, caller: Caller) -> None:
        """Take the leader's verdict; one of a round that we are not in yet is kept for later."""
        if caller.peer_id != self._leader_peer:
            return
        if verdict.round_id == self._round_id:
            self.conclude(verdict)
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
            raise RoundAborted(f"{self._ready.uid} is not in round {round_id}")
        if plan.peer_of(member) != caller.peer_id:
            raise RoundAborted(f"{member} is on another peer in round {round_id}")
        return await butterfly.answer(plan.index_of(member), message.body, message)

    def lost(self, peer_id: PeerId, reason: str) -> None:
        """Take note that a peer is gone."""
        if peer_id == self._leader_peer:
            self._lose_leader(reason)
        elif self.stand is Stand.EXCHANGING and self.plan is not None and self._butterfly:
            for member in self.plan.members:
                if member.peer_id == peer_id:
                    self._butterfly.fail(member.uid, reason)

    def _lose_leader(self, reason: str) -> None:
        self._leader_gone = reason
        self.lost_leader = self.leader
        if self.stand in (Stand.EXCHANGING, Stand.VOTED):
            text = f"leader {self.leader} was lost: {reason}"
            self.conclude(Verdict(self._round_id, text, again=True))
        self._stirred.set()

    def _enter(self, round_id: str) -> None:
        self._round_id = round_id
        if round_id in self._early:
            self.conclude(self._early[round_id])

    # Finding a leader.

    async def _find_leader(
        self, opened: Sequence[ExpertUid], shunned: Collection[ExpertUid]
    ) -> None:
        give_up_at = now() + self._tools.config.averaging_timeout
        tried: list[str] = []
        stage, step = self._ready.stage, self._ready.outer_step
        candidates = Candidates(opened, self._places.order(stage, step, shunned))
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
        self.stand, self._sent_to = Stand.LOOKING, None
        try:
            body = {**self._ready.to_body(), "to": uid}
            answer = await self._call(self._leader_peer, READY, body)
            state = need(answer.body, "state", str)
            if state == JOINED:
                self.stand = Stand.WAITING if self.plan is None else self.stand
                closes_in_s = need(answer.body, "closes_in", float)
                return await self._await_plan(need(answer.body, "round", str), closes_in_s)
            if state == ELSEWHERE:
                self._sent_to = take_uid(answer.body, "leader")
                self._peers[self._sent_to] = PeerId(need(answer.body, "peer", str))
            step = need(answer.body, "step", int)
            chosen = take_chosen(answer.body) if state == AHEAD else None
        except DistqatError as error:
            return self._leave(str(error))
        if state == AHEAD and chosen is not None and chosen.value.key == self._ready.key:
            self.conclude(Verdict("", f"{uid} has taken this step", chosen=chosen))
        elif state == AHEAD:
            raise RoundAborted(
                f"{self._ready.uid} is behind: {uid} is at outer step {step}, past"
                f" {self._ready.outer_step}; it must take over the newer state"
            )
        elif state == CLOSED:
            await self._await_other_round(uid)
        return self._leave(state)

    async def _await_other_round(self, uid: ExpertUid) -> None:
        """Wait a moment for the end of a round that closed without us, then come again."""
        text = f"the round of {uid} closed without {self._ready.uid}"
        if not self._ready.attempt:
            raise RoundAborted(text)
        await asyncio.wait([self._verdict], timeout=self._tools.margin_s / 4)
        self.conclude(Verdict("", text, again=True))

    async def _await_plan(self, round_id: str, closes_in_s: float) -> str:
        if self.plan is None:
            self._enter(round_id)
        margin_s = self._tools.margin_s
        wait_s = min(closes_in_s, self._tools.config.averaging_timeout) + 2 * margin_s
        self._deadline = until_time = now() + wait_s
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
        if plan is None or butterfly is None or self._verdict.done():
            return self._verdict.result()
        report_in_s = max(0.0, self._deadline - 3 * self._tools.margin_s - now())
        with self._tools.bandwidth.measuring():
            fault = await until(butterfly.run(report_in_s), self._verdict)
        if self._verdict.done():
            return self._verdict.result()
        if fault is not None:
            return await self._blame(plan, fault)
        held = await self._tools.executor.run(lambda: digest(butterfly.mean))
        self._keep(plan, butterfly, held)
        self.stand = Stand.VOTED
        vote = Vote(plan.round_id, self._ready.uid, held)
        await until(self._send_vote(vote), self._verdict)
        return await self._await_verdict()

    async def _blame(self, plan: Plan, fault: Fault) -> Verdict:
        """Tell the leader what went wrong; it may know better whose fault it was."""
        vote = Vote(plan.round_id, self._ready.uid, "", fault.blamed, fault.reason)
        await until(self._send_vote(vote), self._verdict)
        await asyncio.wait([self._verdict], timeout=self._tools.margin_s)
        text = f"{', '.join(fault.blamed)} failed: {fault.reason}"
        self.conclude(Verdict(self._round_id, text, again=True))
        return self._verdict.result()

    async def _send_vote(self, vote: Vote) -> None:
        if self._leader_peer is None:
            return
        body, left_s = {**vote.to_body(), "to": self.leader}, max(0.1, self._deadline - now())
        try:
            await self._call(self._leader_peer, VOTE, body, left_s)
        except DistqatError as error:
            self._lose_leader(str(error))

    async def _await_verdict(self) -> Verdict:
        """Wait for the verdict; a leader that is late with it is taken for lost."""
        late_at = self._deadline - self._tools.margin_s
        await asyncio.wait([self._verdict], timeout=max(0.0, late_at - now()))
        if not self._verdict.done():
            self._lose_leader("no verdict after our vote")
        return self._verdict.result()

    async def _call(
        self, peer_id: PeerId, method: str, body: dict[str, Any], timeout_s: float = 0.0
    ) -> Message:
        wait_s = timeout_s or self._tools.margin_s
        return await self._tools.rpc.call(peer_id, method, Message(body), timeout_s=wait_s)
