"""Orders on the experts of one daemon."""

import asyncio
from dataclasses import replace

import pytest

from distqatd.base.errors import (
    ControlError,
    NotFound,
    OutOfScope,
    SwarmError,
    TamperedDirective,
    Unsafe,
)
from distqatd.base.rng import seeded_rng
from distqatd.base.tasks import Supervisor
from distqatd.daemon.control import Control
from distqatd.daemon.jobs import Jobs
from distqatd.daemon.orders import Order
from distqatd.identity.directive import Directive
from tests.support.contexts import World, kinds
from tests.support.loops import on_virtual_time
from tests.support.movable import FakeExpert, Outcome, see
from tests.support.views import info, view_of

ME, OTHER = "m" * 52, "o" * 52
STAGES = ("front", "back")
SPARE = view_of(
    STAGES, info(ME, "front.0.0.0"), info(OTHER, "front.0.1.0"), info(OTHER, "back.0.0.0")
)
LONE = view_of(STAGES, info(ME, "front.0.0.0"), info(OTHER, "back.0.0.0"))


class Desk:
    """Control over fake experts, in a swarm that looks like `view`."""

    def __init__(self, *experts, view=SPARE):
        self.tasks = Supervisor("test", seeded_rng(1))
        self.context = World().context(ME, self.tasks)
        see(self.context, view)
        self.experts = list(experts)
        self.control = Control(
            self.context, lambda: self.experts, Jobs(self.tasks, self.context.clock)
        )

    async def __aenter__(self):
        await self.tasks.__aenter__()
        return self

    async def __aexit__(self, *error):
        await self.tasks.__aexit__(*error)

    async def start(self, kind, **changes):
        order = Order(kind, **{"deadline_s": 20.0, **changes})
        return await self.control.start(order, asked_by=OTHER, reason="a test")

    async def do(self, kind, **changes):
        job = await self.start(kind, **changes)
        await asyncio.sleep(60)
        return job


@on_virtual_time
async def test_a_drain_goes_on_by_itself_and_shows_where_it_stands():
    expert = FakeExpert("front.0.0.0", drain_s=5)
    async with Desk(expert) as desk:
        job = await desk.start("drain")
        await asyncio.sleep(1)
        assert (job.is_over, job.progress()) == (False, "front.0.0.0 draining")
        await asyncio.sleep(5)
        assert (job.is_over, job.exit_code) == (True, 0)
        assert job.message == "front.0.0.0: left after 1.0 s"
        assert expert.told == [("drain", 20.0, "a test")]
        assert kinds(desk.context) == ["control.drain"]


@on_virtual_time
async def test_the_last_replica_of_a_stage_stays_unless_forced():
    expert = FakeExpert("front.0.0.0")
    async with Desk(expert, view=LONE) as desk:
        for kind, stage in (("drain", ""), ("reassign", "back")):
            with pytest.raises(Unsafe, match=r"front\.0\.0\.0 is the last .*(?s:.*)--force"):
                await desk.start(kind, stage=stage)
        assert expert.told == []
        assert (await desk.do("drain", is_forced=True)).exit_code == 0


@on_virtual_time
async def test_all_replicas_of_a_stage_on_one_machine_are_as_good_as_one():
    view = view_of(
        STAGES, info(ME, "front.0.0.0"), info(ME, "front.0.1.0"), info(OTHER, "back.0.0.0")
    )
    async with Desk(FakeExpert("front.0.0.0"), FakeExpert("front.0.1.0"), view=view) as desk:
        for scope in ((), ("front.0.0.0", "front.0.1.0")):
            with pytest.raises(Unsafe):
                await desk.start("drain", scope=scope)
        assert (await desk.do("drain", scope=("front.0.0.0",))).exit_code == 0


@on_virtual_time
async def test_only_the_experts_in_scope_are_touched():
    first, second = FakeExpert("front.0.0.0"), FakeExpert("front.0.1.0")
    async with Desk(first, second) as desk:
        await desk.do("drain", scope=("front.0.1.0",))
        assert (first.told, len(second.told)) == ([], 1)
        with pytest.raises(OutOfScope, match=r"tail\.0\.0\.0 is not hosted here"):
            await desk.start("drain", scope=("tail.0.0.0",))


@on_virtual_time
async def test_what_the_deadline_cut_is_exit_code_7_and_what_did_not_happen_is_3():
    cut = FakeExpert("front.0.0.0", outcome=Outcome(num_cut=1, reason="cut"))
    async with Desk(cut) as desk:
        job = await desk.do("drain")
        assert (job.exit_code, job.code, job.message) == (7, "deadline-passed", "front.0.0.0: cut")
    stays = FakeExpert("front.0.0.0", outcome=Outcome(is_done=False, reason="it was resumed"))
    async with Desk(stays) as desk:
        assert (await desk.do("drain")).exit_code == 3


@on_virtual_time
async def test_an_expert_moves_to_a_stage_that_exists():
    expert = FakeExpert("front.0.0.0")
    async with Desk(expert) as desk:
        with pytest.raises(NotFound, match="it has front, back"):
            await desk.start("reassign", stage="tail")
        assert (await desk.do("reassign", stage="back")).exit_code == 0
        assert expert.told == [("reassign", "back", 20.0, "a test")]


@on_virtual_time
async def test_of_several_experts_one_must_be_named_to_move():
    async with Desk(FakeExpert("front.0.0.0"), FakeExpert("front.0.1.0")) as desk:
        with pytest.raises(ControlError, match=r"move one of them: front\.0\.0\.0, front\.0\.1\.0"):
            await desk.start("reassign", stage="back")
        job = await desk.do("reassign", stage="back", scope=("front.0.0.0",))
        assert job.exit_code == 0


@on_virtual_time
async def test_a_last_replica_may_be_told_to_move_where_it_is():
    async with Desk(FakeExpert("front.0.0.0"), view=LONE) as desk:
        assert (await desk.do("reassign", stage="front")).exit_code == 0


@on_virtual_time
async def test_a_daemon_without_experts_has_nothing_to_drain():
    async with Desk() as desk:
        with pytest.raises(NotFound, match="hosts no expert to drain"):
            await desk.start("drain")


@on_virtual_time
async def test_a_resume_is_not_asked_about_safety():
    expert = FakeExpert("", state="drained")
    async with Desk(expert, view=LONE) as desk:
        assert (await desk.do("resume")).exit_code == 0
        assert expert.told == [("resume",)]


@on_virtual_time
async def test_a_daemon_that_stops_drains_whatever_serves_also_a_last_replica():
    serving, idle = FakeExpert("front.0.0.0", drain_s=2), FakeExpert("", state="joining")
    async with Desk(serving, idle, view=LONE) as desk:
        await desk.control.leave(deadline_s=30.0, reason="SIGTERM")
        assert serving.told == [("drain", 30.0, "SIGTERM")]
        assert idle.told == []


DIRECTIVE = Directive("drain", ME, "s", "r", b"n", (), Order("drain", deadline_s=5.0).args())


def test_an_order_survives_its_way_in_a_directive():
    order = Order("reassign", ("front.0.0.0",), "back", 12.5, is_forced=True)
    sent = replace(DIRECTIVE, kind="reassign", scope=order.scope, args=order.args())
    assert Order.of(sent) == order
    assert str(order) == "reassign front.0.0.0 to back"


@pytest.mark.parametrize(
    "change",
    [{"deadline_s": -1.0}, {"deadline_s": 1e9}, {"deadline_s": float("nan")}, {"stage": "x" * 99}],
)
def test_an_order_that_makes_no_sense_is_refused(change):
    with pytest.raises(TamperedDirective):
        Order.of(replace(DIRECTIVE, args={**DIRECTIVE.args, **change}))


def test_an_order_without_its_arguments_is_refused():
    with pytest.raises(TamperedDirective, match="lacks an argument"):
        Order.of(replace(DIRECTIVE, args={}))


@on_virtual_time
async def test_who_left_a_moment_ago_does_not_count_as_staying():
    async with Desk(FakeExpert("front.0.0.0"), view=LONE) as desk:
        desk.context.directory.view = SPARE  # what was known before it looks
        with pytest.raises(Unsafe):
            await desk.start("drain")


@on_virtual_time
@pytest.mark.parametrize(("other", "stays"), [("a" * 52, True), (OTHER, False)])
async def test_of_two_last_replicas_that_leave_at_once_the_higher_id_stays(other, stays):
    expert = FakeExpert("front.0.0.0", drain_s=5)
    async with Desk(expert) as desk:
        job = await desk.start("drain")
        leaving = {"state": "draining"}
        view = view_of(
            STAGES, info(ME, "front.0.0.0", **leaving), info(other, "front.0.1.0", **leaving)
        )
        see(desk.context, view)
        await asyncio.sleep(2)
        assert (("resume",) in expert.told) == stays
        await asyncio.sleep(10)
        assert job.is_over


@on_virtual_time
async def test_a_forced_drain_is_not_taken_back():
    expert = FakeExpert("front.0.0.0", drain_s=5)
    async with Desk(expert) as desk:
        job = await desk.start("drain", is_forced=True)
        leaving = {"state": "draining"}
        see(desk.context, view_of(STAGES, info(ME, "front.0.0.0", **leaving)))
        await asyncio.sleep(10)
        assert (job.is_over, len(expert.told)) == (True, 1)


@on_virtual_time
async def test_an_expert_that_cannot_move_says_why():
    class Stuck(FakeExpert):
        async def reassign(self, stage, *, deadline_s, reason):
            raise SwarmError(f"{stage} has no free slot")

    async with Desk(Stuck("front.0.0.0")) as desk:
        job = await desk.do("reassign", stage="back")
        assert (job.code, job.message) == ("swarm", "back has no free slot")
