"""Outer steps of all experts of a daemon: the one class that the rest of DistQat uses."""

import asyncio
import statistics
from collections import deque
from typing import Any

from distqatd.averaging import messages
from distqatd.averaging.alone import go_alone
from distqatd.averaging.ballots import StepKey
from distqatd.averaging.bandwidth import Bandwidth
from distqatd.averaging.digests import Agreement, agree
from distqatd.averaging.ledger import Ledger
from distqatd.averaging.looking import Places
from distqatd.averaging.member import MemberRound
from distqatd.averaging.messages import Ready
from distqatd.averaging.phases import Phase, Waiting
from distqatd.averaging.records import Committed, ContributionLike, RoundRecord
from distqatd.averaging.seat import OnOpen, Refresh, Roster, Seat, with_progress
from distqatd.averaging.service import RoundService
from distqatd.averaging.tools import Tools, now
from distqatd.base.clock import Clock
from distqatd.base.decision import Decision
from distqatd.base.disk import Disk
from distqatd.base.errors import DistqatError, RoundAborted
from distqatd.base.events import EventLog
from distqatd.base.ids import ExpertUid, PeerId
from distqatd.base.rng import Rng
from distqatd.compute.executor import Executor
from distqatd.config.sections import DilocoConfig
from distqatd.net.meter import Meter
from distqatd.net.rpc import Rpc
from distqatd.wire.fields import need
from distqatd.wire.payload import Message

MAX_RECORDS = 200


class Averager:
    """Outer steps of all experts of a daemon.

    `run` must be running for rounds to be led here; whoever calls it owns it.
    """

    def __init__(
        self,
        rpc: Rpc,
        executor: Executor,
        config: DilocoConfig,
        clock: Clock,
        rng: Rng,
        events: EventLog,
        disk: Disk,
        meter: Meter | None = None,
    ) -> None:
        """Register the methods; nothing runs yet.

        Args:
            rpc: how peers are called and served.
            executor: where tensors are worked on.
            config: timeout, quorum and codec of rounds.
            clock: wall time, for records only.
            rng: names rounds.
            events: where the ends of rounds are told.
            disk: where promises and accepted values are kept; of this daemon alone.
            meter: of the links that `rpc` uses; None if nobody measures them.
        """
        bandwidth = Bandwidth(meter or Meter())
        self._tools = Tools(rpc, executor, config, rng, events, Ledger(disk), bandwidth)
        self._clock = clock
        self._service = RoundService(self._tools)
        self._records: deque[RoundRecord] = deque(maxlen=MAX_RECORDS)

    @property
    def rounds(self) -> tuple[RoundRecord, ...]:
        """Return the last rounds of the experts here, oldest first."""
        return tuple(self._records)

    def waiting(self) -> tuple[Waiting, ...]:
        """Return the rounds that experts here lead or are in now, and whom they wait for."""
        seats = self._service.seats
        led = [with_progress(seat, led) for seat in seats.values() for led in seat.leading.values()]
        active = [seat.active.waiting() for seat in seats.values() if seat.active is not None]
        elsewhere = [wait for wait in active if wait is not None and wait.leader not in seats]
        return (*(wait for wait in led if wait.phase != Phase.DECIDED.value), *elsewhere)

    async def run(self) -> None:
        """Own the tasks of rounds that experts here lead, for ever."""
        await self._service.run()

    def attach(
        self,
        uid: ExpertUid,
        stage: str,
        roster: Roster,
        on_open: OnOpen | None = None,
        refresh: Refresh | None = None,
    ) -> None:
        """Let an expert take part in outer steps; call it when it serves.

        Args:
            uid: the expert.
            stage: name of its stage.
            roster: returns the serving experts of the stage, this one with its current outer
                step and anchor digest included. Called often: it must be cheap.
            on_open: told when others wait for this expert.
            refresh: brings the roster up to date before a round that this expert leads closes.
        """
        self._service.seats[uid] = Seat(uid, stage, roster, on_open, refresh)

    def detach(self, uid: ExpertUid) -> None:
        """Forget an expert; rounds that it leads abort."""
        seat = self._service.seats.pop(uid, None)
        for led in list(seat.leading.values()) if seat is not None else []:
            led.withdraw(f"leader {uid} leaves")
        self._service.digests.forget(uid)

    def behind(self, uid: ExpertUid) -> Decision[bool]:
        """Decide whether an expert must take over a newer state before it can go on."""
        seat = self._service.seat(uid)
        step, _ = seat.position()
        newest, who = seat.newest(now(), self._tools.config.averaging_timeout)
        return Decision(newest > step, f"{uid} is at outer step {step}, {who} at {newest}")

    async def round(self, uid: ExpertUid, contribution: ContributionLike) -> Committed:
        """Take the next outer step together with the other replicas, or not at all.

        Takes `averaging_timeout` at most, and longer only while leaders or members die one after
        the other: then another ballot among those who are left follows at once. A caller that
        cancels this after the vote may miss a step that the others take.

        Args:
            uid: an attached expert.
            contribution: what it brings; its pseudo-gradient must not change meanwhile.

        Returns:
            What to hand to `Expert.commit_outer`, the same bits at every member.

        Raises:
            RoundAborted: no step was taken here; keep the old anchor and train on. When `behind`
                then says so, load a newer state first.
        """
        seat = self._service.seat(uid)
        if seat.active is not None:
            raise RoundAborted(f"{uid} is in a round already")
        # A caller that comes again with an older anchor has not applied what was committed.
        seat.finished = min(seat.finished, contribution.outer_step - 1)
        key = StepKey(seat.stage, contribution.outer_step, contribution.anchor_digest)
        seat.kept.keep_only(key)
        began = now()
        try:
            committed = await self._take_step(seat, key, contribution)
            seat.finished = max(seat.finished, contribution.outer_step)
            seat.committed = (committed.outer_step, committed.members)
            seat.kept.forget()
            if committed.norms:
                fragment = self._tools.fragment(contribution.outer_step)
                seat.measured(fragment, statistics.median(committed.norms))
        except RoundAborted as error:
            self._note(seat, contribution.outer_step + 1, str(error), now() - began)
            raise
        else:
            self._note(seat, committed.outer_step, "", now() - began, committed)
            return committed
        finally:
            seat.active = None

    async def exchange_digest(self, uid: ExpertUid, outer_step: int, digest: str) -> Agreement:
        """Tell the other replicas which anchor we hold at an outer step, and learn theirs.

        Those who took the step with us are asked, or all of the roster if we did not take it.
        Waits for them a moment: a replica answers when it has taken the step itself.
        """
        seat = self._service.seat(uid)
        timeout_s = 2 * self._tools.margin_s
        # Two in client mode cannot ask each other; the digests of the rest tell enough.
        us = {m.is_dialable for m in seat.roster() if m.uid == uid}
        asked = [m for m in seat.roster() if m.uid != uid and (m.is_dialable or us != {False})]
        others = {m.uid: m.peer_id for m in asked}
        if seat.committed[0] == outer_step:
            others = {other: peer for other, peer in others.items() if other in seat.committed[1]}
        self._service.digests.note(uid, outer_step, uid, digest)
        async with asyncio.TaskGroup() as tasks:
            for other, peer_id in others.items():
                body = {"to": other, "from": uid, "step": outer_step, "digest": digest}
                tasks.create_task(self._swap_digest(uid, other, peer_id, body, timeout_s))
        await self._service.digests.wait_for(uid, outer_step, frozenset(others), timeout_s)
        known = self._service.digests.get(uid, outer_step)
        held = {other: known[other] for other in (uid, *others) if other in known}
        return agree(held, tuple(sorted(others.keys() - held.keys())))

    # Rounds.

    async def _take_step(
        self, seat: Seat, key: StepKey, contribution: ContributionLike
    ) -> Committed:
        chosen = seat.chosen.get(key)
        if chosen is not None and (kept := seat.kept.find(chosen.value)) is not None:
            return kept.committed(chosen.value, 0, 0.0)
        self._check_newest(seat, contribution)
        if self._is_alone(seat, contribution):
            alone = await go_alone(self._tools, seat.uid, seat.stage, contribution, seat.kept)
            seat.learn(alone.chosen)
            return alone.committed
        return await self._together(seat, contribution)

    def _check_newest(self, seat: Seat, contribution: ContributionLike) -> None:
        newest, who = seat.newest(now(), self._tools.config.averaging_timeout)
        if newest > contribution.outer_step:
            raise RoundAborted(
                f"{seat.uid} is behind at outer step {contribution.outer_step}:"
                f" {who} is at {newest}; it must take over the newer state"
            )

    def _is_alone(self, seat: Seat, contribution: ContributionLike) -> bool:
        others = any(member.uid != seat.uid for member in seat.roster())
        led = self._service.led(seat, contribution.outer_step)
        return not others and led is None and not self._opened(seat, contribution)

    def _opened(self, seat: Seat, contribution: ContributionLike) -> dict[ExpertUid, PeerId]:
        """Return who leads a round over this anchor that our expert may join, and where."""
        step, anchor = contribution.outer_step, contribution.anchor_digest
        opened: dict[ExpertUid, PeerId] = {}
        if self._service.led(seat, step, anchor) is not None:
            opened[seat.uid] = self._tools.rpc.peer_id
        if (invitation := seat.invited(step, anchor, now())) is not None:
            opened[invitation.leader] = invitation.peer_id
        return opened

    async def _together(self, seat: Seat, contribution: ContributionLike) -> Committed:
        roster = {member.uid: member for member in seat.roster()}
        callers = frozenset(member.uid for member in roster.values() if not member.is_dialable)
        ready = Ready(
            seat.uid,
            seat.stage,
            contribution.outer_step,
            contribution.anchor_digest,
            contribution.samples,
            contribution.pseudo_gradient.numel(),
            self._tools.bandwidth.bytes_per_s,
            dict(contribution.int_buffers),
            contribution.batches,
            contribution.num_coded,
            contribution.voters,
            num_averaged=contribution.num_averaged,
            is_dialable=seat.uid not in callers,
        )
        peers = {m.uid: m.peer_id for m in roster.values()} | {seat.uid: self._tools.rpc.peer_id}
        opened = self._opened(seat, contribution)
        found = Places(peers | opened, callers)
        seat.active = MemberRound(self._tools, ready, contribution, found, seat.kept)
        committed = await seat.active.run(tuple(opened))
        if seat.active.chosen is not None:
            seat.learn(seat.active.chosen)
        return committed

    def _note(
        self,
        seat: Seat,
        outer_step: int,
        reason: str,
        seconds: float,
        committed: Committed | None = None,
    ) -> None:
        """Record the end of a round and tell it as an event."""
        member = seat.active
        plan = member.plan if member is not None else None
        reason = reason or (member.reason if member is not None else "the only replica")
        record = RoundRecord(
            outer_step=outer_step,
            stage=seat.stage,
            uid=seat.uid,
            outcome="committed" if committed is not None else "aborted",
            reason=reason,
            members=plan.uids if plan is not None else (seat.uid,),
            missing=member.missing if member is not None else (),
            weights=plan.weights if plan is not None else {seat.uid: 1.0},
            bytes_sent=member.bytes_sent if member is not None else 0,
            seconds=seconds,
            ended_unix_s=self._clock.now(),
            duplicated=plan.duplicated if plan is not None and committed is not None else 0,
            shares=plan.shares if plan is not None else {},
            bandwidths=plan.bandwidths if plan is not None else {},
            slicing=plan.slicing if plan is not None else "",
            fragment=self._tools.fragment(outer_step - 1),
        )
        self._records.append(record)
        self._tools.events.emit(
            f"round.{record.outcome}",
            degraded=committed is None,
            expert=seat.uid,
            stage=seat.stage,
            outer_step=outer_step,
            num_members=len(record.members),
            seconds=round(seconds, 3),
            reason=reason,
        )
        if committed is not None and committed.dropped:
            self._tools.events.emit(
                "round.contribution_dropped",
                degraded=True,
                expert=seat.uid,
                outer_step=outer_step,
                members=" ".join(committed.dropped),
                reason="NaN or infinite values",
            )
        if record.duplicated:
            self._tools.events.emit(
                "round.batches_overlap",
                degraded=True,
                expert=seat.uid,
                outer_step=outer_step,
                duplicated=record.duplicated,
            )

    async def _swap_digest(
        self, uid: ExpertUid, other: ExpertUid, peer_id: PeerId, body: dict[str, Any], wait_s: float
    ) -> None:
        try:
            message = Message(body)
            answer = await self._tools.rpc.call(peer_id, messages.DIGEST, message, timeout_s=wait_s)
            theirs = need(answer.body, "digest", str)
        except DistqatError:
            # It stays among the silent ones of the agreement.
            return
        if theirs:
            self._service.digests.note(uid, int(body["step"]), other, theirs)
