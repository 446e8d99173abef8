"""A member's side of an outer step: one ballot after the other until the step is decided."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from distqatd.averaging.attempt import Attempt
from distqatd.averaging.ballots import Learn
from distqatd.averaging.butterfly import Butterfly
from distqatd.averaging.guard import leads
from distqatd.averaging.keeping import Kept, KeptMeans
from distqatd.averaging.looking import Places, Stand
from distqatd.averaging.messages import Ready, Verdict
from distqatd.averaging.phases import Waiting
from distqatd.averaging.plan import Plan
from distqatd.averaging.progress import Progress
from distqatd.averaging.records import Committed, ContributionLike
from distqatd.averaging.tools import Tools, now
from distqatd.base.errors import RoundAborted
from distqatd.base.ids import ExpertUid, PeerId
from distqatd.net.rpc import Caller
from distqatd.wire.payload import Message

PAUSE_S = 0.02
"""Before another ballot at most, doubled each time, so that leaders do not outbid each other."""

MAX_PAUSE_S = 1.0


class MemberRound:
    """One call of `Averager.round`: `run` does the work, the averager feeds it what arrives.

    Attributes:
        ready: what we bring, as leaders see it.
        missing: members of the roster that took no part, as far as known at the end.
        reason: how it ended.
        attempts: ballots that fell apart before this one.
        chosen: how the step was decided, once that is known.
    """

    def __init__(
        self,
        tools: Tools,
        ready: Ready,
        contribution: ContributionLike,
        places: Places,
        kept: KeptMeans,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            tools: the seams.
            ready: what we bring, without the values.
            contribution: with the values.
            places: where the experts of the stage are; any of them may have to lead.
            kept: means that were voted for here.
        """
        self.ready = ready
        self.missing: tuple[ExpertUid, ...] = ()
        self.reason = "given up by its caller"
        self.attempts = 0
        self._tools = tools
        self._contribution = contribution
        self._places = places
        self._kept = kept
        self._bytes_sent = 0
        self._left: set[str] = set()
        self.chosen: Learn | None = None
        self._chosen: Verdict | None = None
        self._attempt = self._new_attempt()

    @property
    def plan(self) -> Plan | None:
        """Return the plan of the ballot we are in."""
        return self._attempt.plan

    @property
    def progress(self) -> Progress | None:
        """Return how far the exchange is, while there is one."""
        return self._attempt.progress

    @property
    def whereabouts(self) -> tuple[ExpertUid, PeerId] | None:
        """Return whose round we are in or try to get into, and where that is."""
        return self._attempt.whereabouts

    def waiting(self) -> Waiting | None:
        """Describe the round of another that we are in, None if we are in none."""
        where, ready = self._attempt.whereabouts, self.ready
        if where is None:
            return None
        progress = self._attempt.progress
        return Waiting(
            round_id="",
            stage=ready.stage,
            outer_step=ready.outer_step,
            phase=self._attempt.stand.value,
            ready=self.plan.uids if self.plan is not None else (ready.uid,),
            waiting_for=progress.waits_for if progress is not None else where[:1],
            seconds_left=self._attempt.seconds_left,
            leader=where[0],
            progress=progress,
        )

    @property
    def bytes_sent(self) -> int:
        """Return the tensor bytes sent so far."""
        return self._bytes_sent + self._attempt.bytes_sent

    async def run(self, opened: Sequence[ExpertUid] = ()) -> Committed:
        """Take part until the step is decided, or nothing can be done about it.

        Args:
            opened: who has opened a round that we could join.

        Raises:
            RoundAborted: it was not committed here; the message says why and names who was
                missing or failed.
        """
        began = now()
        shunned: set[ExpertUid] = set()
        while True:
            verdict = self._chosen or await self._attempt.run(opened, shunned)
            verdict = self._chosen or verdict
            self.missing, self.reason = verdict.missing, verdict.reason
            if verdict.chosen is not None:
                self.chosen = verdict.chosen
                return self._committed(verdict.chosen, now() - began)
            if self._attempt.lost_leader is not None:
                shunned.add(self._attempt.lost_leader)
            if not verdict.again or now() - began > self._patience_s():
                raise RoundAborted(verdict.reason)
            await self._try_again(verdict)
            opened = ()

    def take_plan(self, plan: Plan, caller: Caller, seconds_left: float) -> None:
        """Take the plan of the round we are in; see `Attempt.take_plan`.

        Raises:
            RoundAborted: we do not wait for it, or have left its round.
        """
        if plan.round_id in self._left:
            raise RoundAborted(f"{self.ready.uid} has left round {plan.round_id}")
        self._attempt.take_plan(plan, caller, seconds_left)

    def take_verdict(self, verdict: Verdict, caller: Caller) -> None:
        """Take a verdict; that a step was committed counts also from a leader that we have left."""
        chosen = verdict.chosen
        if chosen is None or chosen.value.key != self.ready.key or not leads(chosen.ballot, caller):
            self._attempt.take_verdict(verdict, caller)
            return
        self._chosen = self._chosen or verdict
        self._attempt.conclude(verdict)

    async def answer_chunk(self, caller: Caller, message: Message, member: ExpertUid) -> Message:
        """Serve another member's chunk; see `Attempt.answer_chunk`."""
        return await self._attempt.answer_chunk(caller, message, member)

    def lost(self, peer_id: PeerId, reason: str) -> None:
        """Take note that a peer is gone."""
        self._attempt.lost(peer_id, reason)

    def summoned(self, leader: ExpertUid) -> None:
        """Leave a leader that we have voted with: others, who have lost it, go on without it."""
        attempt = self._attempt
        if attempt.stand is Stand.VOTED and attempt.leader != leader:
            text = f"{leader} has opened another ballot"
            attempt.conclude(Verdict("", text, again=True))

    def _patience_s(self) -> float:
        """Return how long ballots are tried: twice as long if a leader left us with a vote."""
        timeout_s = self._tools.config.averaging_timeout
        return 2 * timeout_s if self._attempt.stand is Stand.VOTED else timeout_s

    async def _try_again(self, verdict: Verdict) -> None:
        self._bytes_sent += self._attempt.bytes_sent
        if self._attempt.plan is not None:
            self._left.add(self._attempt.plan.round_id)
        self.attempts += 1
        self._tools.events.emit(
            "round.again",
            expert=self.ready.uid,
            outer_step=self.ready.outer_step + 1,
            attempt=self.attempts,
            reason=verdict.reason,
        )
        pause_s = min(MAX_PAUSE_S, PAUSE_S * 2.0**self.attempts)
        await asyncio.sleep(self._tools.rng.uniform(0, pause_s))
        self.ready = replace(self.ready, attempt=self.attempts)
        self._attempt = self._new_attempt()

    def _new_attempt(self) -> Attempt:
        values = self._contribution.pseudo_gradient
        return Attempt(self._tools, self.ready, values, self._places, self._keep)

    def _keep(self, plan: Plan, exchange: Butterfly, held: str) -> None:
        mine, rest = self._contribution, exchange.rest
        self._kept.keep(
            Kept(plan, exchange.mean, held, mine, rest, exchange.dropped, exchange.norms)
        )

    def _committed(self, chosen: Learn, seconds: float) -> Committed:
        kept = self._kept.find(chosen.value)
        if kept is None:
            raise RoundAborted(
                f"outer step {self.ready.outer_step + 1} was committed, but {self.ready.uid} does"
                " not hold its mean: it is behind and must take over the newer state"
            )
        return kept.committed(chosen.value, self.bytes_sent, seconds)
