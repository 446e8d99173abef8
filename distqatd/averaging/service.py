"""What peers call: takes each averaging method to the seat and the round it is meant for."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from distqatd.averaging import messages
from distqatd.averaging.ballots import Accept, Learn, Prepare, Promised, StepKey
from distqatd.averaging.digests import DigestBook
from distqatd.averaging.guard import check_ballot, leads
from distqatd.averaging.leader import Leader
from distqatd.averaging.looking import Invitation
from distqatd.averaging.member import MemberRound
from distqatd.averaging.messages import Ready, Verdict, Vote, take_uid
from distqatd.averaging.phases import Phase
from distqatd.averaging.plan import Plan, Terms
from distqatd.averaging.replies import write_answer
from distqatd.averaging.roster import grace_s, retry_grace_s
from distqatd.averaging.round import LeaderRound
from distqatd.averaging.seat import MAX_ROUNDS_LED, Seat
from distqatd.averaging.slicing import MAX_CHUNK_BYTES
from distqatd.averaging.speech import need_ballot, need_value
from distqatd.averaging.tools import Tools, now
from distqatd.base.errors import (
    ExpertNotFound,
    Overloaded,
    RemoteProtocolError,
    RoundAborted,
)
from distqatd.base.ids import ExpertUid, PeerId
from distqatd.base.tasks import Supervisor
from distqatd.net.rpc import Caller
from distqatd.wire.fields import need
from distqatd.wire.payload import Message

MAX_BODY_BYTES = 1 << 19


class RoundService:
    """The handlers of one daemon, and the rounds that its experts lead.

    Attributes:
        seats: by expert; bounded by the experts this daemon hosts.
        digests: anchors that other replicas say they hold.
    """

    def __init__(self, tools: Tools) -> None:
        """Register all methods; nothing runs yet."""
        self.seats: dict[ExpertUid, Seat] = {}
        self.digests = DigestBook()
        self._tools = tools
        self._supervisor: Supervisor | None = None
        self._register(messages.READY, self._on_ready)
        self._register(messages.OPEN, self._on_open)
        self._register(messages.PLAN, self._on_plan)
        self._register(messages.PREPARE, self._on_prepare)
        self._register(messages.VOTE, self._on_vote)
        self._register(messages.ACCEPT, self._on_accept)
        self._register(messages.VERDICT, self._on_verdict)
        self._register(messages.DIGEST, self._on_digest)
        limit = MAX_CHUNK_BYTES + MAX_BODY_BYTES
        tools.rpc.serve(messages.CHUNK, self._on_chunk, max_bytes=limit, sink=tools.memory.sink)
        tools.rpc.on_lost(self._on_lost)

    async def run(self) -> None:
        """Own the tasks of rounds that experts here lead, for ever."""
        async with Supervisor("averaging", self._tools.rng) as supervisor:
            self._supervisor = supervisor
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self._supervisor = None

    def _register(
        self, method: str, handle: Callable[[Caller, dict[str, Any]], Awaitable[dict[str, Any]]]
    ) -> None:
        async def handler(caller: Caller, message: Message) -> Message:
            return Message(await handle(caller, dict(message.body)))

        self._tools.rpc.serve(method, handler, max_bytes=MAX_BODY_BYTES)

    def seat(self, uid: ExpertUid) -> Seat:
        """Return an expert's seat.

        Raises:
            ExpertNotFound: it is not attached here.
        """
        if uid not in self.seats:
            raise ExpertNotFound(f"no expert {uid} averages on this peer")
        return self.seats[uid]

    def led(self, seat: Seat, outer_step: int, anchor_digest: str = "") -> Leader | None:
        """Return the round that is led for this anchor and not decided yet; "" is any anchor."""
        for led in seat.leading.values():
            same = anchor_digest in ("", led.round.anchor_digest)
            if same and led.round.outer_step == outer_step and led.round.phase is not Phase.DECIDED:
                return led
        return None

    def _active(self, uid: ExpertUid) -> MemberRound:
        active = self.seat(uid).active
        if active is None:
            raise RoundAborted(f"{uid} is in no round")
        return active

    def _lead(self, seat: Seat, first: Ready) -> Leader:
        num_open = sum(led.round.phase is not Phase.DECIDED for led in seat.leading.values())
        if self._supervisor is None or num_open >= MAX_ROUNDS_LED:
            raise Overloaded(f"{seat.uid} cannot lead another round now")
        config = self._tools.config
        round_id = (
            f"{seat.stage}/{first.outer_step + 1}/{seat.uid}/{self._tools.rng.getrandbits(48):012x}"
        )
        grace = grace_s(seat.arrivals_s, config.averaging_timeout)
        if first.attempt:
            grace = retry_grace_s(grace, self._tools.margin_s)
        norms = tuple(seat.norms.get(self._tools.fragment(first.outer_step), ()))
        terms = Terms(
            config.averaging_timeout, grace.value, config.quorum, config.codec, None, norms
        )
        led = Leader(
            self._tools,
            seat.uid,
            LeaderRound(round_id, first, seat.roster(), terms, now()),
            lambda uid, step: seat.hear(uid, step, now()),
            seat.look,
            seat.outbid,
        )
        seat.leading[round_id] = led
        self._tools.events.emit(
            "round.opened", expert=seat.uid, stage=seat.stage, first=first.uid, grace=grace.reason
        )
        self._supervisor.spawn(self._run_leader(seat, led), name=f"lead.{round_id}")
        return led

    async def _run_leader(self, seat: Seat, led: Leader) -> None:
        try:
            await led.run()
        finally:
            del seat.leading[led.round.round_id]
            seat.outbid = max(seat.outbid, led.outbid)
            seat.arrivals_s.extend(led.round.arrivals_s)

    async def _on_ready(self, caller: Caller, body: dict[str, Any]) -> dict[str, Any]:
        seat = self.seat(take_uid(body, "to"))
        ready = Ready.from_body(body)
        if ready.stage != seat.stage:
            raise RemoteProtocolError(f"{ready.uid} serves {ready.stage}, {seat.uid} {seat.stage}")
        state, step = seat.compare(ready.outer_step, ready.anchor_digest)
        if state == messages.BEHIND:
            seat.hear(ready.uid, ready.outer_step, now())
        if state != messages.COMING:
            known = messages.chosen_fields(seat.chosen.get(ready.key))
            return {"state": state, "step": step, **known}
        led = self.led(seat, ready.outer_step, ready.anchor_digest)
        if led is None and (other := _other_leader(seat, ready)) is not None:
            return {"state": messages.ELSEWHERE, "step": step, "leader": other[0], "peer": other[1]}
        led = led or self._lead(seat, ready)
        if led.round.phase is not Phase.GATHERING:
            return {"state": messages.CLOSED, "step": step}
        return {"state": messages.JOINED, "step": step, **led.ready(ready, caller)}

    async def _on_open(self, caller: Caller, body: dict[str, Any]) -> dict[str, Any]:
        seat = self.seat(take_uid(body, "to"))
        leader, step = take_uid(body, "from"), need(body, "step", int)
        anchor = need(body, "anchor", str)
        left_s = max(0.0, need(body, "seconds", float))
        state, own_step = seat.compare(step, anchor)
        if state == messages.BEHIND:
            seat.hear(leader, step, now())
        if state == messages.COMING:
            seat.invitation = Invitation(step, anchor, leader, caller.peer_id, now() + left_s)
        if state == messages.COMING and seat.active is not None:
            state = messages.JOINED
            seat.active.summoned(leader)
        elif state in (messages.COMING, messages.BEHIND) and seat.on_open is not None:
            seat.on_open(seat.uid, step + 1, left_s)
        known = messages.chosen_fields(seat.chosen.get(StepKey(seat.stage, step, anchor)))
        return {"state": state, "step": own_step, **known}

    async def _on_plan(self, caller: Caller, body: dict[str, Any]) -> dict[str, Any]:
        uid, plan = take_uid(body, "to"), Plan.from_body(body)
        answer = await self._prepare(uid, plan.key, body, caller)
        # Promised before it is taken, and not taken unless promised: a later leader must not
        # find out of nothing while we vote for this one.
        if "accepted" in answer:
            self._active(uid).take_plan(plan, caller, need(body, "seconds", float))
        return answer

    async def _on_prepare(self, caller: Caller, body: dict[str, Any]) -> dict[str, Any]:
        stage, anchor = need(body, "stage", str), need(body, "anchor", str)
        key = StepKey(stage, need(body, "step", int), anchor)
        return await self._prepare(take_uid(body, "to"), key, body, caller)

    async def _on_accept(self, caller: Caller, body: dict[str, Any]) -> dict[str, Any]:
        uid, value = take_uid(body, "to"), need_value(body, "value")
        ballot = need_ballot(body, "ballot")
        return await self._react(uid, value.key, Accept(ballot, value), caller)

    async def _prepare(
        self, uid: ExpertUid, key: StepKey, body: dict[str, Any], caller: Caller
    ) -> dict[str, Any]:
        return await self._react(uid, key, Prepare(need_ballot(body, "ballot")), caller)

    async def _react(
        self, uid: ExpertUid, key: StepKey, event: Prepare | Accept, caller: Caller
    ) -> dict[str, Any]:
        """Have an expert react as a voter; say how the step was taken if it is behind it."""
        seat, ledger = self.seat(uid), self._tools.ledger
        if (taken := _taken(seat, key)) is not None:
            return taken
        check_ballot(event.ballot, await ledger.look(uid, key), caller)
        answer = await ledger.react(uid, key, event)
        # While the disk was busy we may have taken the step, and dropped its mean.
        if (taken := _taken(seat, key)) is not None:
            return taken
        value = answer.value if isinstance(answer, Promised) else None
        return write_answer(answer, holds=seat.kept.find(value) is not None)

    async def _on_vote(self, caller: Caller, body: dict[str, Any]) -> dict[str, Any]:
        vote = Vote.from_body(body)
        led = self.seat(take_uid(body, "to")).leading.get(vote.round_id)
        if led is None:
            raise RoundAborted(f"round {vote.round_id} is not led here any more")
        led.vote(vote, caller)
        return {}

    async def _on_verdict(self, caller: Caller, body: dict[str, Any]) -> dict[str, Any]:
        seat, verdict = self.seat(take_uid(body, "to")), Verdict.from_body(body)
        if seat.active is not None:
            seat.active.take_verdict(verdict, caller)
        elif verdict.chosen is not None and leads(verdict.chosen.ballot, caller):
            self._told(seat, verdict.chosen)
        return {}

    def _told(self, seat: Seat, chosen: Learn) -> None:
        """Hurry to apply, or to fetch, a step that its leader says was taken."""
        step, digest = seat.position()
        key = chosen.value.key
        if (seat.stage, step, digest) != (key.stage, key.outer_step, key.anchor_digest):
            return
        if seat.kept.find(chosen.value) is not None:
            seat.learn(chosen)
        else:
            seat.hear(ExpertUid(chosen.ballot.leader.partition("@")[0]), step + 1, now())
        if seat.on_open is not None:
            seat.on_open(seat.uid, step + 1, 0.0)

    async def _on_digest(self, _: Caller, body: dict[str, Any]) -> dict[str, Any]:
        seat = self.seat(take_uid(body, "to"))
        other, step = take_uid(body, "from"), need(body, "step", int)
        seat.hear(other, step, now())
        self.digests.note(seat.uid, step, other, need(body, "digest", str))
        return {"digest": self.digests.get(seat.uid, step).get(seat.uid, "")}

    async def _on_chunk(self, caller: Caller, message: Message) -> Message:
        active = self._active(take_uid(message.body, "to"))
        return await active.answer_chunk(caller, message, take_uid(message.body, "from"))

    def _on_lost(self, peer_id: PeerId, reason: str) -> None:
        for seat in list(self.seats.values()):
            for led in list(seat.leading.values()):
                led.lost(peer_id, reason)
            if seat.active is not None:
                seat.active.lost(peer_id, reason)


def _taken(seat: Seat, key: StepKey) -> dict[str, Any] | None:
    """Return the answer of an expert that has a step behind it, None if it stands before it.

    Raises:
        RoundAborted: it is at another step or anchor, or does not know how the step was taken.
    """
    step, anchor = seat.position()
    if step > key.outer_step and (known := seat.chosen.get(key)) is not None:
        return messages.chosen_fields(known)
    # What it has promised elsewhere must not be pushed out of its ledger.
    if (seat.stage, step) != (key.stage, key.outer_step) or anchor not in ("", key.anchor_digest):
        raise RoundAborted(f"{seat.uid} is at outer step {step}, not at {key.outer_step}")
    return None


def _other_leader(seat: Seat, ready: Ready) -> tuple[ExpertUid, PeerId] | None:
    """Return the leader whose round our expert is in, where the one that asks us should go too."""
    where = seat.active.whereabouts if seat.active is not None else None
    return where if where is not None and where[0] not in (seat.uid, ready.uid) else None
