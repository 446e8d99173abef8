"""Directives through the real handlers: an operator, its target, and what must not work."""

import asyncio
from dataclasses import replace

import pytest

from distqatd.base.errors import (
    DistqatError,
    ExpiredDirective,
    KindRefused,
    MisdirectedDirective,
    NotAllowed,
    NotFound,
    OutOfScope,
    ReplayedDirective,
    TamperedDirective,
    UnknownOperator,
    Unsafe,
)
from distqatd.base.rng import seeded_rng
from distqatd.base.tasks import Supervisor
from distqatd.config.sections import Config, ControlConfig
from distqatd.daemon.control import Control
from distqatd.daemon.directives import CHALLENGE, DIRECTIVE, JOB, Receiver, Sender
from distqatd.daemon.jobs import Jobs
from distqatd.daemon.orders import Order
from distqatd.identity.directive import VALID_S, Directive, Operator, sign
from distqatd.identity.keys import Identity
from distqatd.identity.operator import Operators
from distqatd.wire.payload import Message
from tests.support.contexts import World, kinds
from tests.support.loops import on_virtual_time
from tests.support.movable import FakeExpert, see
from tests.support.views import info, view_of

BOSS, TARGET, EVE = "b" * 52, "t" * 52, "e" * 52
OPERATOR = Identity.generate(seeded_rng("operator"))
VIEW = view_of(("front",), info(TARGET, "front.0.0.0"), info(EVE, "front.0.1.0"))


class Link:
    """The operator's daemon, a target with one expert, and somebody else in the same swarm."""

    def __init__(self, operators=None, control=None):
        self.tasks = Supervisor("test", seeded_rng(1))
        world = World(Config(control=control or ControlConfig()))
        self.net = world.net
        self.target = self._context(world, TARGET)
        self.boss = self._context(world, BOSS)
        self.eve = world.net.peer(EVE)
        self.expert = FakeExpert("front.0.0.0", drain_s=3)
        jobs = Jobs(self.tasks, self.target.clock)
        held = operators or Operators(of_swarm=OPERATOR.public_key)
        desk = Control(self.target, lambda: [self.expert], jobs)
        Receiver(self.target, "swarm", lambda: held, desk, jobs)
        signer = Operators(signer=OPERATOR)
        jobs_here = Jobs(self.tasks, self.boss.clock)
        self.sender = Sender(self.boss, "swarm", lambda: signer, jobs_here)

    def _context(self, world, peer):
        context = world.context(peer, self.tasks)
        see(context, VIEW)
        return context

    async def __aenter__(self):
        await self.tasks.__aenter__()
        return self

    async def __aexit__(self, *error):
        await self.tasks.__aexit__(*error)

    async def nonce(self, caller=None):
        reply = await (caller or self.boss.rpc).call(TARGET, CHALLENGE, Message({}), timeout_s=5)
        return reply.body["nonce"]

    async def signed(self, *, key=OPERATOR, **changes):
        order = Order(changes.pop("kind", "drain"), deadline_s=9.0)
        directive = Directive(
            order.kind, TARGET, "swarm", "distqat", await self.nonce(), (), order.args()
        )
        return sign(key, replace(directive, **changes))

    async def deliver(self, signed, caller=None):
        body = {
            "payload": signed.payload,
            "public_key": signed.public_key,
            "signature": signed.signature,
        }
        rpc = caller or self.boss.rpc
        return await rpc.call(TARGET, DIRECTIVE, Message(body), timeout_s=5)

    async def refused(self, error, signed, caller=None):
        """Deliver what must be refused, with this error, without any effect."""
        told = list(self.expert.told)
        with pytest.raises(error):
            await self.deliver(signed, caller)
        await asyncio.sleep(5)
        assert self.expert.told == told
        assert kinds(self.target)[-1] == "control.refused"


@on_virtual_time
async def test_an_operators_order_is_carried_out_there_and_followed_here():
    async with Link() as link:
        job = await link.sender.send(Order("drain", ("front.0.0.0",), deadline_s=9.0), TARGET)
        await asyncio.sleep(1)
        assert (job.is_over, job.progress()) == (False, "front.0.0.0 draining")
        await asyncio.sleep(4)
        assert (job.is_over, job.exit_code) == (True, 0)
        assert job.message == "front.0.0.0: left after 1.0 s"
        [(kind, deadline_s, reason)] = link.expert.told
        assert (kind, deadline_s) == ("drain", 9.0)
        assert reason.startswith("the operator asked for it by ")


@on_virtual_time
async def test_the_order_is_done_although_the_operators_daemon_has_gone():
    async with Link() as link:
        await link.sender.send(Order("drain"), TARGET)
        link.net.cut(BOSS)
        await asyncio.sleep(10)
        assert link.expert.state == "drained"


@on_virtual_time
async def test_a_target_that_falls_silent_is_given_up_and_one_that_comes_back_is_not():
    async with Link() as link:
        link.expert.drain_s = 200
        job = await link.sender.send(Order("drain"), TARGET)
        link.net.cut(TARGET)
        await asyncio.sleep(30)
        assert "does not answer" in job.progress()
        link.net.heal(TARGET)
        await asyncio.sleep(30)
        assert job.progress() == "front.0.0.0 draining"
        link.net.cut(TARGET)
        await asyncio.sleep(90)
        assert (job.is_over, job.exit_code) == (True, 5)


@on_virtual_time
async def test_a_directive_that_was_carried_out_is_not_taken_again():
    async with Link() as link:
        signed = await link.signed()
        await link.deliver(signed)
        await link.refused(ReplayedDirective, signed)


@on_virtual_time
async def test_a_directive_that_somebody_else_brings_is_refused():
    async with Link() as link:
        await link.refused(ReplayedDirective, await link.signed(), caller=link.eve)


@on_virtual_time
async def test_a_directive_with_a_nonce_of_its_own_making_is_refused():
    async with Link() as link:
        await link.refused(ReplayedDirective, await link.signed(nonce=b"n" * 16))


@on_virtual_time
async def test_a_tampered_directive_is_refused():
    async with Link() as link:
        signed = await link.signed()
        other = await link.signed(kind="reassign")
        await link.refused(TamperedDirective, replace(signed, payload=other.payload))


@on_virtual_time
async def test_a_directive_that_comes_too_late_is_refused():
    async with Link() as link:
        signed = await link.signed()
        await asyncio.sleep(VALID_S + 1)
        await link.refused(ExpiredDirective, signed)


@on_virtual_time
async def test_wall_clocks_that_are_wrong_by_ten_minutes_change_nothing():
    async with Link() as link:
        for skew_s, context in ((600, link.boss), (-600, link.target)):
            now = context.clock.now() + skew_s
            context.clock.now = lambda now=now: now
        job = await link.sender.send(Order("drain"), TARGET)
        await asyncio.sleep(5)
        assert job.exit_code == 0
        assert link.expert.state == "drained"


@on_virtual_time
@pytest.mark.parametrize(
    "change", [{"target": EVE}, {"swarm_id": "other"}, {"run_id": "another run"}]
)
async def test_a_directive_for_another_peer_swarm_or_run_is_refused(change):
    async with Link() as link:
        await link.refused(MisdirectedDirective, await link.signed(**change))


@on_virtual_time
async def test_a_directive_of_another_key_is_refused():
    async with Link() as link:
        stranger = Identity.generate(seeded_rng("stranger"))
        await link.refused(UnknownOperator, await link.signed(key=stranger))


@on_virtual_time
async def test_an_operator_that_may_only_resume_cannot_drain():
    only = Operators(named=(Operator(OPERATOR.public_key, frozenset({"resume"})),))
    async with Link(only) as link:
        await link.refused(OutOfScope, await link.signed())


@on_virtual_time
async def test_a_directive_about_an_expert_that_is_not_there_any_more_is_refused():
    async with Link() as link:
        await link.refused(OutOfScope, await link.signed(scope=("front.0.5.0",)))


@on_virtual_time
async def test_the_owner_of_the_machine_has_the_last_word():
    async with Link(control=ControlConfig(refuse=("drain",))) as link:
        await link.refused(KindRefused, await link.signed())
        with pytest.raises(KindRefused):
            await link.sender.send(Order("drain"), TARGET)


@on_virtual_time
async def test_the_safety_rule_of_the_target_reaches_the_operator():
    async with Link() as link:
        see(link.target, view_of(("front",), info(TARGET, "front.0.0.0")))
        with pytest.raises(Unsafe):
            await link.sender.send(Order("drain"), TARGET)


@on_virtual_time
async def test_an_order_without_its_arguments_is_refused():
    async with Link() as link:
        await link.refused(TamperedDirective, await link.signed(args={}))


@on_virtual_time
@pytest.mark.parametrize("body", [{}, {"payload": b"", "public_key": "text", "signature": b""}])
async def test_a_message_that_is_no_directive_is_refused(body):
    async with Link() as link:
        with pytest.raises(DistqatError):
            await link.boss.rpc.call(TARGET, DIRECTIVE, Message(body), timeout_s=5)


@on_virtual_time
async def test_only_who_asked_may_look_at_an_operation():
    async with Link() as link:
        number = (await link.deliver(await link.signed())).body["number"]
        message = Message({"number": number})
        mine = await link.boss.rpc.call(TARGET, JOB, message, timeout_s=5)
        assert mine.body["progress"] == "front.0.0.0 draining"
        for caller, asked in ((link.eve, number), (link.boss.rpc, number + 1)):
            with pytest.raises(NotFound):
                await caller.call(TARGET, JOB, Message({"number": asked}), timeout_s=5)


@on_virtual_time
async def test_without_the_operators_key_nothing_is_sent():
    async with Link() as link:
        powerless = Sender(link.boss, "swarm", Operators, Jobs(link.tasks, link.boss.clock))
        with pytest.raises(NotAllowed, match=r"operator\.key"):
            await powerless.send(Order("drain"), TARGET)
        assert link.net.calls == []


@on_virtual_time
async def test_a_peer_that_cannot_be_reached_is_not_found():
    async with Link() as link:
        link.net.cut(TARGET)
        with pytest.raises(NotFound, match="cannot be reached"):
            await link.sender.send(Order("drain"), TARGET)
