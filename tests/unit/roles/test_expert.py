import asyncio

from distqatd.averaging.digests import Agreement
from distqatd.base.decision import Decision
from distqatd.base.errors import RoundAborted
from distqatd.roles.expert_life import REFRESH_S
from distqatd.swarm import records as r
from tests.support.contexts import kinds
from tests.support.expert_roles import ExpertWorld
from tests.support.loops import on_virtual_time
from tests.support.views import record

RUN = "distqat"


def digests(world, *peers):
    return {(world.expert(peer).outer_step, world.expert(peer).anchor_digest) for peer in peers}


@on_virtual_time
async def test_a_late_joiner_takes_the_newest_anchor_and_momentum_from_a_donor():
    async with ExpertWorld("full") as world:
        world.start("a")
        await world.serving("a")
        world.advance("a", times=3)
        world.start("b")
        await world.serving("b")
        assert digests(world, "a", "b") == {(3, world.expert("a").anchor_digest)}
        given, taken = (world.expert(peer).snapshot().tensors["momentum"] for peer in "ab")
        assert given.equal(taken)
        assert "expert.state_loaded" in kinds(world.contexts["b"])


@on_virtual_time
async def test_replicas_take_an_outer_step_together_and_hold_the_same_bits():
    async with ExpertWorld("full") as world:
        world.start(*"abc")
        await world.serving(*"abc")
        for number, peer in enumerate("ab"):
            world.train(peer, number)
        world.round(*"abc")  # the third one has nothing to give
        await asyncio.sleep(5)
        [(step, _)] = digests(world, *"abc")
        assert step == 1
        assert "anchor.unchecked" not in kinds(world.contexts["a"])


@on_virtual_time
async def test_an_idle_replica_joins_a_round_that_others_opened():
    async with ExpertWorld("full") as world:
        world.start("a", "b")
        await world.serving("a", "b")
        world.train("a", 0)
        world.round("a")
        await asyncio.sleep(5)
        [(step, _)] = digests(world, "a", "b")
        assert step == 1


@on_virtual_time
async def test_an_aborted_round_keeps_the_anchor_and_what_was_trained():
    async with ExpertWorld("full") as world:
        world.start("a")
        await world.serving("a")
        before = digests(world, "a")
        world.train("a", 0)
        role = world.roles["a"]

        async def aborted(*_):
            raise RoundAborted("no quorum")

        role._parts.averager.round, round_ = aborted, role._parts.averager.round
        world.round("a")
        await asyncio.sleep(1)
        assert digests(world, "a") == before
        assert world.expert("a").samples_since_anchor == 8
        role._parts.averager.round = round_
        world.round("a")
        await asyncio.sleep(1)
        assert world.expert("a").outer_step == 1


@on_virtual_time
async def test_a_replica_that_was_left_behind_finds_out_and_catches_up():
    async with ExpertWorld("full") as world:
        world.start("a", "b")
        await world.serving("a", "b")
        world.advance("a", times=2)
        await asyncio.sleep(REFRESH_S + 5)
        [(step, _)] = digests(world, "a", "b")
        assert step == 2


@on_virtual_time
async def test_the_replica_that_is_outvoted_takes_the_anchor_of_the_others():
    async with ExpertWorld("full") as world:
        world.start(*"abc")
        await world.serving(*"abc")
        for peer in "ab":
            world.advance(peer)
        odd = world.expert("c")
        world.train("c", 99)
        given = odd.contribution()
        odd.commit_outer(given.pseudo_gradient, 1, {})
        world.publish("c")
        assert len(digests(world, *"abc")) == 2
        await asyncio.sleep(REFRESH_S + 5)
        assert digests(world, *"abc") == digests(world, "a")
        assert "anchor.resynced" in kinds(world.contexts["c"])
        assert "anchor.resynced" not in kinds(world.contexts["a"])


async def one_round_with(agreement_of):
    """Take an outer step alone, with a made-up answer of the others about the anchor."""
    async with ExpertWorld("full") as world:
        world.start("a")
        await world.serving("a")

        async def exchange(uid, _, digest):
            return agreement_of(uid, digest)

        world.roles["a"]._parts.averager.exchange_digest = exchange
        world.train("a", 0)
        world.round("a")
        await asyncio.sleep(1)
        return kinds(world.contexts["a"])


@on_virtual_time
async def test_a_silent_member_is_not_taken_for_one_that_differs():
    told = await one_round_with(lambda uid, own: Agreement(False, own, (uid,), silent=("x",)))
    assert "anchor.unchecked" in told
    assert "anchor.differs" not in told


@on_virtual_time
async def test_a_member_with_another_digest_is_told_as_a_difference():
    told = await one_round_with(lambda uid, own: Agreement(False, own, (uid,), dissenters=("x",)))
    assert "anchor.differs" in told
    assert "anchor.resynced" not in told  # we are the majority


@on_virtual_time
async def test_of_two_experts_with_one_uid_the_higher_peer_id_takes_another_slot():
    async with ExpertWorld("full") as world:
        world.start("m")
        [uid] = await world.serving("m")
        world.board.put(r.stage_key(RUN, 0), "a", "0", record(uid).pack())
        world.net.peer("a").serve("pipeline.standing", world.roles["m"]._parts.host._standing)
        await asyncio.sleep(REFRESH_S + 0.1)
        await asyncio.sleep(5)
        [other] = await world.serving("m")
        assert other != uid
        assert kinds(world.contexts["m"]).count("expert.serving") == 2


@on_virtual_time
async def test_an_expert_that_ends_takes_its_records_back():
    async with ExpertWorld("full") as world:
        world.start("a")
        await world.serving("a")
        world.roles["a"].task.cancel()
        await asyncio.sleep(0.1)
        assert world.board.records == {}
        assert world.roles["a"].state == r.DRAINING


@on_virtual_time
async def test_an_expert_whose_stage_does_not_fit_leaves_it_and_takes_another():
    async with ExpertWorld("front", "back") as world:
        world.start("a")
        await world.serving("a")
        role = world.roles["a"]
        first = role.slot.stage
        hosted = role.hosted
        hosted.on_short(Decision(value=True, reason="2 microbatches in flight"))
        await asyncio.sleep(1)
        assert role.hosted is hosted
        hosted.on_short(Decision(value=False, reason="one microbatch alone"))
        await asyncio.sleep(60)
        await world.serving("a")
        assert {first, role.slot.stage} == {"front", "back"}
        told = [e for e in world.contexts["a"].events.since() if e.kind == "expert.unfit"]
        assert "raise diloco.num_microbatches (1)" in told[0].fields["error"]
        assert told[0].degraded
