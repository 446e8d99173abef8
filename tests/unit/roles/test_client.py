import asyncio

import pytest

from distqatd.base.errors import RemoteProtocolError, StaleTerm
from distqatd.roles import staffing
from distqatd.roles.client_calls import Held
from distqatd.swarm.ledger import TERM_BITS
from tests.support.clients import client_world
from tests.support.loops import on_virtual_time


def kinds(world, peer="me"):
    return [event.kind for event in world.events(peer)]


async def ready(world, trainers=("t",), pipelines=1):
    for peer in trainers:
        world.trainer(peer)
    world.experts(pipelines)
    await world.look()
    return world.trainers[trainers[0]]


@on_virtual_time
async def test_without_a_complete_pipeline_nobody_is_started():
    async with client_world() as world:
        world.expert("a", "front.0.0.0")
        world.trainer("t")
        await world.look()
        assert world.started == []
        assert world.clients["me"].duty.holds


@on_virtual_time
async def test_each_pipeline_gets_the_trainer_with_the_fewest():
    async with client_world() as world:
        await ready(world, ("t1", "t2"), pipelines=3)
        assert sorted(world.started) == [(0, "t1"), (1, "t2"), (2, "t1")]


@on_virtual_time
async def test_a_trainer_that_cannot_be_reached_is_passed_over():
    async with client_world() as world:
        world.trainer("t1")
        world.trainer("t2")
        world.experts()
        world.kill("t1")
        await world.look()
        await world.look()
        assert world.started == [(0, "t2")]


@on_virtual_time
async def test_a_trainer_gets_a_lease_and_the_route():
    async with client_world() as world:
        grant = await (await ready(world)).sync()
        size = world.config.diloco.inner_steps
        assert (grant.term, grant.first, grant.end) == (1, 0, size)
        assert [hop.uid for hop in grant.route] == ["front.0.0.0", "back.0.0.0"]
        assert not grant.is_over


@on_virtual_time
async def test_reports_move_the_ledger_and_a_trainer_may_hold_several_leases():
    async with client_world() as world:
        trainer = await ready(world)
        first = await trainer.sync()
        await trainer.advance(5)
        assert world.clients["me"].ledger.committed == 5
        second = await trainer.sync()
        assert second.first == first.end
        assert second.fence > first.fence
        assert (await trainer.sync(wants_lease=False)).fence == 0


@on_virtual_time
async def test_the_next_trainer_goes_on_where_the_last_one_reported(monkeypatch):
    async with client_world() as world:
        trainer = await ready(world)
        first = await trainer.sync()
        await trainer.advance(5)
        monkeypatch.setattr(staffing, "TRAINER_SILENT_S", -1.0)
        held = trainer.jobs[0].held
        await world.look()
        assert "trainer.lost" in kinds(world)
        again = await trainer.sync()
        assert (again.first, again.end) == (5, first.end)
        assert (await trainer.sync(held=held)).is_over
        assert world.clients["me"].ledger.lost() == 0


@on_virtual_time
async def test_a_trainer_whose_link_breaks_is_replaced_at_once():
    async with client_world() as world:
        trainer = await ready(world, ("t1", "t2"))
        first = await trainer.sync()
        await trainer.advance(3)
        world.kill("t1")
        await world.look()
        assert world.started == [(0, "t1"), (0, "t2")]
        again = await world.trainers["t2"].sync()
        assert (again.first, again.end) == (3, first.end)
        assert again.fence > first.fence


@on_virtual_time
async def test_a_trainer_whose_link_broke_but_that_answers_keeps_its_pipeline():
    async with client_world() as world:
        trainer = await ready(world)
        await trainer.sync()
        world.kill("t")
        world.net.heal("t")
        await world.look()
        assert world.started == [(0, "t")]
        assert "trainer.lost" not in kinds(world)


@on_virtual_time
async def test_another_trainer_is_told_that_it_is_over():
    async with client_world() as world:
        await ready(world, ("t", "u"))
        grant = await world.trainers["u"].sync()
        assert grant.is_over
        assert grant.route == ()


@on_virtual_time
async def test_a_peer_reported_lost_is_not_in_the_next_route():
    async with client_world() as world:
        trainer = await ready(world)
        world.expert("c", "back.0.1.0")
        await world.look()
        grant = await trainer.sync(lost=("b0",))
        assert [hop.peer_id for hop in grant.route] == ["f0", "c"]


@on_virtual_time
async def test_while_a_gap_lasts_the_trainer_gets_neither_route_nor_lease():
    async with client_world() as world:
        grant = await (await ready(world)).sync(lost=("b0",))
        assert (grant.route, grant.fence) == ((), 0)


@on_virtual_time
async def test_what_waits_for_a_pipeline_that_stays_broken_goes_to_the_others():
    async with client_world() as world:
        await ready(world, ("t1", "t2"), pipelines=2)
        broken, other = (world.trainers[peer] for _, peer in sorted(world.started))
        lease = await broken.sync(0)
        await broken.advance(4, 0)
        world.kill(broken.peer)
        world.kill("b0")
        world.expert("f0", "front.0.0.0", local=[(0, 6)])
        await world.look()
        assert (await other.sync(1)).first == lease.end
        await asyncio.sleep(11)
        other.jobs[1] = other.jobs[1].__class__(1, 1, (), 0, 0, (), False, False, 0)
        world.clients["me"].staff.heard(1)
        await world.look()
        fences = [(await other.sync(1)).first for _ in range(2)]
        assert 4 in fences


@on_virtual_time
async def test_the_run_is_finished_when_every_expert_has_taken_the_last_outer_step():
    async with client_world() as world:
        trainer = await ready(world)
        last = world.config.diloco.outer_steps
        world.expert("f0", "front.0.0.0", outer_step=last)
        await world.look()
        assert not world.clients["me"].is_finished
        world.expert("b0", "back.0.0.0", outer_step=last)
        await world.look()
        await asyncio.sleep(0.1)
        assert world.clients["me"].is_finished
        await world.look()
        found = world.lease()
        assert (found.is_finished, found.eval_loss, found.eval_accuracy) == (True, 0.5, 0.9)
        assert (await trainer.sync()).is_over


@on_virtual_time
async def test_a_run_that_nobody_can_evaluate_now_is_evaluated_later():
    async with client_world() as world:
        await ready(world)
        world.kill("t")
        world.experts(outer_step=world.config.diloco.outer_steps)
        await world.look()
        await asyncio.sleep(1)
        assert not world.clients["me"].is_finished
        world.trainer("u")
        await world.look()
        await asyncio.sleep(1)
        assert world.lease().term == 1
        assert world.clients["me"].evaluator.newest.loss == 0.5


@on_virtual_time
async def test_a_gap_is_news_only_after_the_stage_was_served():
    async with client_world() as world:
        await world.look()
        assert not [event for event in world.events() if event.degraded]
        world.expert("a", "front.0.0.0")
        await world.look()
        world.board.drop("a")
        await world.look()
        news = [event for event in world.events() if event.degraded]
        assert [(event.kind, event.fields["stage"]) for event in news] == [("stage.gap", "front")]


# --- trainers inside clients


@on_virtual_time
async def test_where_nobody_trains_clients_host_trainers_one_a_pipeline():
    async with client_world() as world:
        world.client("other")
        world.client("third")
        world.experts(2)
        for _ in range(4):
            await world.look()
            await world.look("other")
            await asyncio.sleep(0.5)
        assert sorted(world.hosted) == ["me", "other"]
        assert sorted(world.started) == [(0, "me"), (1, "other")]


@on_virtual_time
async def test_a_trainer_of_its_own_that_cannot_start_is_told_and_nothing_breaks():
    async with client_world() as world:
        world.experts()

        async def fail():
            raise StaleTerm("no data here")

        world.clients["me"]._start_local_trainer = fail
        await world.look()
        await asyncio.sleep(1)
        await world.look()
        assert kinds(world).count("trainer.unusable") == 1
        assert world.started == []


# --- the duty


@on_virtual_time
async def test_a_client_that_comes_later_stands_by_and_sends_trainers_away():
    async with client_world() as world:
        trainer = await ready(world)
        world.client("other")
        await world.look("other")
        assert not world.clients["other"].duty.holds
        with pytest.raises(StaleTerm):
            await trainer.sync(client="other")


@on_virtual_time
async def test_another_client_takes_over_and_no_batch_is_lost_or_lent_twice():
    async with client_world() as world:
        trainer = await ready(world, ("t1", "t2"), pipelines=2)
        leases = [await world.trainers["t1"].sync(0), await world.trainers["t2"].sync(1)]
        await trainer.advance(4, 0)
        world.client("other")
        await world.look("other")
        world.expert("f0", "front.0.0.0", local=[(0, 4)])
        world.expert("b0", "back.0.0.0", local=[(0, 4)])
        world.kill("me")
        for _ in range(3):
            await world.look("other")
            await asyncio.sleep(0.3)
        other = world.clients["other"]
        assert other.duty.term == 2
        assert [job.term for job in trainer.jobs.values()] == [2]
        assert set(other.pipelines) == {0, 1}
        assert len(world.started) == 2  # trainers ran on through it
        ledger = other.ledger
        assert (ledger.committed, ledger.lost(), ledger.waiting) == (4, 0, [])
        assert {held.fence for held in ledger.leases.values()} == {x.fence for x in leases}
        assert (await trainer.sync(0)).first == leases[1].end
        assert world.lease().term == 2


@on_virtual_time
async def test_until_the_books_are_read_nothing_is_lent_and_counts_stay():
    async with client_world() as world:
        trainer = await ready(world)
        await trainer.sync()
        await trainer.advance(4)
        await world.look()
        world.client("other")
        await world.look("other")
        world.kill("me")
        world.board.drop("b0")
        for _ in range(3):
            await world.look("other")
            await asyncio.sleep(0.3)
        assert (await trainer.sync(client="other")).fence == 0
        assert (world.lease().term, world.lease().committed, world.lease().lost) == (2, 4, 0)
        world.expert("b1", "back.0.1.0")
        await world.look("other")
        assert world.clients["other"].ledger.lost() == 0


@on_virtual_time
async def test_a_restarted_client_goes_on_with_what_trainers_and_experts_say():
    async with client_world() as world:
        trainer = await ready(world)
        first = await trainer.sync()
        await trainer.advance(4)
        await world.look()
        world.client("me")  # the same peer, again
        await world.look()
        restarted = world.clients["me"]
        assert restarted.duty.term == 2
        assert restarted.ledger.of(0)[0].fence == first.fence
        assert (restarted.ledger.committed, restarted.ledger.lost()) == (4, 0)


@on_virtual_time
async def test_a_client_goes_above_a_term_that_only_trainers_remember():
    async with client_world() as world:
        trainer = await ready(world)
        trainer.jobs[0] = trainer.jobs[0].__class__(0, 7, (), 0, 0, (), False, False, 0)
        with pytest.raises(StaleTerm):
            await trainer.sync(client="me")
        await world.look()
        assert world.clients["me"].duty.term == 8
        assert trainer.jobs[0].term == 8


@on_virtual_time
async def test_of_two_holders_after_a_partition_one_steps_down_and_the_other_asks_all():
    async with client_world() as world:
        trainer = await ready(world)
        await trainer.sync()
        world.client("other")
        other = world.clients["other"]
        other.duty.term = other.duty._known_term = 1  # it did not see `me`
        other.lending.begin(1, None)
        await other.look(await other._context.directory.refresh())
        assert (other.duty.holds, "duty.stepped_down" in kinds(world, "other")) == (False, True)


@on_virtual_time
async def test_the_end_of_the_run_survives_a_takeover():
    async with client_world() as world:
        await ready(world)
        world.client("other")
        await world.look("other")
        world.experts(outer_step=world.config.diloco.outer_steps)
        world.kill("me")
        for _ in range(4):
            await world.look("other")
            await asyncio.sleep(0.3)
        assert world.clients["other"].is_finished
        assert world.clients["other"].evaluator.newest.loss == 0.5


@on_virtual_time
async def test_a_holder_that_falls_silent_without_a_word_is_replaced():
    async with client_world() as world:
        await world.look()
        world.client("other")
        await world.look("other")
        watch = world.tasks.spawn(world.clients["other"].duty.watch(), name="watch")
        world.net._cut.add("me")  # no link breaks: it is only silent
        for _ in range(10):
            await asyncio.sleep(0.5)
            await world.look("other")
        watch.cancel()
        assert world.clients["other"].duty.term == 2


@on_virtual_time
async def test_a_takeover_with_conflicting_leases_starts_one_of_the_pipelines_anew():
    async with client_world() as world:
        await ready(world, ("t1", "t2"), pipelines=2)
        for number, peer in sorted(world.started):
            held = (Held(5 + number, 0, 2, 50),)
            job = world.trainers[peer].jobs[number]
            world.trainers[peer].jobs[number] = job.__class__(
                number, 1, held, 0, 0, (), False, False, 0
            )
        world.client("me")
        await world.look()
        assert "trainer.lost" in kinds(world)
        assert [number for number, _ in world.started].count(0) == 2
        assert world.clients["me"].ledger.lost() == 0


@on_virtual_time
async def test_a_client_goes_above_a_term_that_only_experts_remember():
    async with client_world() as world:
        world.trainer("t")
        world.expert("f0", "front.0.0.0", fence=(5 << TERM_BITS) + 9)
        world.expert("b0", "back.0.0.0", fence=(1 << TERM_BITS) + 9)
        for _ in range(3):
            await world.look()
        assert world.clients["me"].duty.term == 6
        assert world.started == [(0, "t")]


@on_virtual_time
async def test_batches_that_rounds_found_twice_are_in_the_final_count():
    async with client_world() as world:
        await ready(world)
        world.experts(outer_step=world.config.diloco.outer_steps, duplicated=3)
        await world.look()
        await asyncio.sleep(1)
        await world.look()
        assert (world.lease().is_finished, world.lease().duplicated) == (True, 3)


@on_virtual_time
async def test_a_peer_that_says_absurd_terms_moves_nobody():
    async with client_world() as world:
        trainer = await ready(world)
        with pytest.raises(RemoteProtocolError):
            await trainer.sync(term=1 << 40)
        await world.look()
        assert world.clients["me"].duty.term == 1
