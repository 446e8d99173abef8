"""Orders between machines: what an operator's daemon sends, and what its target lets through.

    control.challenge {}                              -> {nonce}
    control.directive {payload, public_key, signature} -> {number}: a job of the target
    control.job       {number}                        -> where that job stands

The job lives at the target: the operator's daemon only looks, and may go away.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from distqatd.base.errors import DistqatError, NetworkError, NotAllowed, NotFound, error_for_code
from distqatd.base.ids import PeerId, nickname
from distqatd.daemon.control import Control
from distqatd.daemon.jobs import Job, Jobs, Plan
from distqatd.daemon.orders import Order
from distqatd.identity.challenge import Challenges
from distqatd.identity.directive import Directive, Gate, SignedDirective, sign
from distqatd.identity.operator import Operators
from distqatd.net.rpc import Caller
from distqatd.roles.context import Context
from distqatd.wire.fields import need
from distqatd.wire.payload import Message

CHALLENGE, DIRECTIVE, JOB = "control.challenge", "control.directive", "control.job"

MAX_REQUEST_BYTES = 4096
CALL_S = 10.0
POLL_S = 0.5
SILENT_S = 60.0
"""A target that has not answered for so long is given up by who watches it, seconds."""


@dataclass(frozen=True, slots=True)
class _JobState:
    """How a job of the target stands, as it tells us."""

    is_over: bool
    progress: str
    message: str
    code: str

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> "_JobState":
        return cls(
            need(body, "is_over", bool),
            need(body, "progress", str),
            need(body, "message", str),
            need(body, "code", str),
        )


class Receiver:
    """Takes directives of operators and has them carried out here."""

    def __init__(
        self,
        context: Context,
        swarm_id: str,
        operators: Callable[[], Operators],
        control: Control,
        jobs: Jobs,
    ) -> None:
        """Serve the three methods; `operators` tells whose directives count now."""
        self._context = context
        self._swarm_id = swarm_id
        self._operators = operators
        self._control = control
        self._jobs = jobs
        self._challenges = Challenges(context.rng)
        rpc = context.rpc
        rpc.serve(CHALLENGE, self._challenge, max_bytes=MAX_REQUEST_BYTES)
        rpc.serve(DIRECTIVE, self._directive, max_bytes=MAX_REQUEST_BYTES)
        rpc.serve(JOB, self._job, max_bytes=MAX_REQUEST_BYTES)

    def _gate(self) -> Gate:
        context = self._context
        return Gate(
            context.peer_id,
            self._swarm_id,
            context.run_id,
            self._operators().accepted,
            context.config.control.refuse,
        )

    async def _challenge(self, caller: Caller, _: Message) -> Message:
        now = asyncio.get_running_loop().time()
        return Message({"nonce": self._challenges.give(caller.peer_id, now)})

    async def _directive(self, caller: Caller, message: Message) -> Message:
        body = message.body
        signed = SignedDirective(
            need(body, "payload", bytes),
            need(body, "public_key", bytes),
            need(body, "signature", bytes),
        )
        try:
            job = await self._let_in(signed, caller.peer_id)
        except DistqatError as error:
            self._context.events.emit(
                "control.refused", degraded=True, caller=caller.peer_id, error=str(error)
            )
            raise
        return Message({"number": job.number})

    async def _let_in(self, signed: SignedDirective, caller: PeerId) -> Job:
        directive = self._gate().check(signed)
        self._challenges.redeem(directive, caller, asyncio.get_running_loop().time())
        reason = f"the operator asked for it by {nickname(caller)}"
        return await self._control.start(Order.of(directive), asked_by=caller, reason=reason)

    async def _job(self, caller: Caller, message: Message) -> Message:
        number = need(message.body, "number", int)
        job = self._jobs.get(number)
        if job.plan.asked_by != caller.peer_id:
            raise NotFound(f"operation {number} is not one that you asked for")
        progress = "" if job.is_over else job.progress()
        return Message(
            {
                "is_over": job.is_over,
                "progress": progress,
                "message": job.message,
                "code": job.code,
            }
        )


class Sender:
    """Gives the operator's orders to other machines, and follows what becomes of them."""

    def __init__(
        self, context: Context, swarm_id: str, operators: Callable[[], Operators], jobs: Jobs
    ) -> None:
        self._context = context
        self._swarm_id = swarm_id
        self._operators = operators
        self._jobs = jobs

    async def send(self, order: Order, target: PeerId) -> Job:
        """Have `target` begin, and return a job of ours that follows it there.

        Raises:
            NotAllowed: this machine does not hold the operator's key, or the target refuses.
            NotFound: the target cannot be reached.
            DistqatError: what the target refused the order for.
        """
        number = await self._give(order, target)
        me = self._context.peer_id
        plan = Plan(order.kind, f"{order} on {nickname(target)}", target, me, order.deadline_s)
        seen = [f"{nickname(target)} has begun"]

        async def work() -> str:
            return await self._follow(target, number, seen)

        return self._jobs.start(plan, work, lambda: seen[0])

    async def _give(self, order: Order, target: PeerId) -> int:
        signer = self._operators().signer
        if signer is None:
            raise NotAllowed(
                "this machine does not hold the operator's key, so others need not obey\n"
                "fix: ask on the machine that made the swarm, or bring its operator.key here "
                "(mode 0600): --control-operator-key-file FILE"
            )
        rpc = self._context.rpc
        try:
            given = await rpc.call(target, CHALLENGE, Message({}), timeout_s=CALL_S)
            directive = Directive(
                kind=order.kind,
                target=target,
                swarm_id=self._swarm_id,
                run_id=self._context.run_id,
                nonce=need(given.body, "nonce", bytes),
                scope=order.scope,
                args=order.args(),
            )
            signed = sign(signer, directive)
            body = {
                "payload": signed.payload,
                "public_key": signed.public_key,
                "signature": signed.signature,
            }
            reply = await rpc.call(target, DIRECTIVE, Message(body), timeout_s=CALL_S)
        except NetworkError as error:
            raise NotFound(f"{nickname(target)} cannot be reached: {error}") from error
        return need(reply.body, "number", int)

    async def _follow(self, target: PeerId, number: int, seen: list[str]) -> str:
        """Look at the target's job until it is over; a lost link alone does not end it.

        Raises:
            DistqatError: how the job failed, or the target has not answered for a minute.
        """
        loop = asyncio.get_running_loop()
        heard_at = loop.time()
        while True:
            try:
                state = await self._look(target, number)
            except NetworkError as error:
                if loop.time() - heard_at > SILENT_S:
                    raise NotFound(f"{nickname(target)} is gone: {error}") from error
                seen[0] = f"{nickname(target)} does not answer: {error}"
            else:
                heard_at = loop.time()
                if state.is_over:
                    return _ending(state)
                seen[0] = state.progress
            await asyncio.sleep(POLL_S)

    async def _look(self, target: PeerId, number: int) -> _JobState:
        message = Message({"number": number})
        reply = await self._context.rpc.call(target, JOB, message, timeout_s=CALL_S)
        return _JobState.read(reply.body)


def _ending(state: _JobState) -> str:
    if state.code:
        raise error_for_code(state.code)(state.message)
    return state.message
