"""Whole rounds among several daemons: commit everywhere with the same bits, or nowhere."""

import asyncio

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distqatd.averaging.records import Committed
from distqatd.averaging.roster import Member
from distqatd.base.errors import ExpertNotFound, RoundAborted
from tests.support.averaging_swarm import STAGE, Gift, Swarm, gifts, on_virtual_time


def dense_mean(brought: list[Gift]) -> torch.Tensor:
    """The oracle: products and sums in fp32, in the order of the replicas."""
    total = sum(gift.samples for gift in brought)
    mean = torch.zeros_like(brought[0].pseudo_gradient)
    for gift in brought:
        if gift.samples:
            mean = mean + gift.pseudo_gradient * (gift.samples / total)
    return mean


def test_all_replicas_commit_the_weighted_mean_bit_for_bit() -> None:
    async def scenario() -> None:
        async with Swarm(4) as swarm:
            brought = gifts(4, size=5000)
            outcomes = await swarm.round(brought)
            for outcome in outcomes:
                assert isinstance(outcome, Committed)
                assert torch.equal(outcome.mean, dense_mean(brought))
                assert outcome.outer_step == 1
                assert sum(outcome.weights.values()) == pytest.approx(1.0)

    on_virtual_time(scenario())


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 9000),
    st.sampled_from(["fp32", "fp16", "bf16"]),
    st.lists(st.integers(0, 50), min_size=6, max_size=6),
    st.lists(st.floats(0, 8), min_size=6, max_size=6),
    st.integers(0, 99),
)
def test_sizes_weights_and_arrival_orders_never_change_a_bit(
    num: int, size: int, codec: str, samples: list[int], delays_s: list[float], seed: int
) -> None:
    samples[0] += 1

    async def scenario() -> list[Committed]:
        async with Swarm(num, seed, codec=codec) as swarm:
            for index, replica in enumerate(swarm.replicas):
                swarm.network.delay("averaging.chunk", delays_s[index] / 9, to=replica.rpc.peer_id)
            return await swarm.round(brought, delays_s)

    brought = gifts(num, size, samples)
    outcomes = on_virtual_time(scenario())
    assert len({outcome.digest for outcome in outcomes}) == 1
    for outcome in outcomes:
        assert torch.equal(outcome.mean, outcomes[0].mean)
    if codec == "fp32" or num == 1:
        assert torch.equal(outcomes[0].mean, dense_mean(brought))
    else:
        # Once on the way to the owner, once on the way back.
        bound = torch.zeros(size)
        for gift in brought:
            bound += gift.pseudo_gradient.abs() * (gift.samples / sum(samples[:num]))
        assert bool(((outcomes[0].mean - dense_mean(brought)).abs() <= bound * 0.009).all())


def test_one_replica_takes_its_own_pseudo_gradient_at_once() -> None:
    async def scenario() -> None:
        async with Swarm(1, codec="bf16") as swarm:
            (gift,) = gifts(1)
            (outcome,) = await swarm.round([gift])
            assert torch.equal(outcome.mean, gift.pseudo_gradient)
            assert outcome.members == ("tail.0.0.0",)
            assert swarm.network.calls == []
            assert swarm.replicas[0].averager.rounds[-1].outcome == "committed"

    on_virtual_time(scenario())


def test_a_member_without_samples_gets_the_result_and_cannot_touch_it() -> None:
    async def scenario() -> None:
        async with Swarm(3) as swarm:
            brought = gifts(3, 4000, samples=[2, 0, 6])
            brought[1].pseudo_gradient.fill_(float("nan"))
            outcomes = await swarm.round(brought)
            assert [o.weights["tail.0.1.0"] for o in outcomes] == [0.0] * 3
            assert all(torch.equal(o.mean, dense_mean(brought)) for o in outcomes)

    on_virtual_time(scenario())


def test_a_round_where_nobody_trained_aborts_everywhere() -> None:
    async def scenario() -> None:
        for num in (1, 3):
            async with Swarm(num) as swarm:
                outcomes = await swarm.round(gifts(num, samples=[0] * num))
                assert all("nothing to average" in str(outcome) for outcome in outcomes)

    on_virtual_time(scenario())


def test_integer_buffers_become_the_largest() -> None:
    async def scenario() -> None:
        async with Swarm(2) as swarm:
            brought = gifts(2)
            brought[0].int_buffers = {"seen": 7}
            brought[1].int_buffers = {"seen": 5}
            outcomes = await swarm.round(brought)
            assert [o.int_buffers for o in outcomes] == [{"seen": 7}] * 2

    on_virtual_time(scenario())


def test_a_member_that_is_still_training_is_told_and_joins_before_the_deadline() -> None:
    async def scenario() -> None:
        async with Swarm(3) as swarm:
            brought = gifts(3)
            slow = swarm.replicas[2]
            late: list[Committed] = []

            async def join(after_s: float) -> None:
                await asyncio.sleep(after_s)
                late.append(await slow.averager.round(slow.uid, brought[2]))

            async with asyncio.TaskGroup() as tasks:
                slow.hurry = lambda _, left_s: tasks.create_task(join(left_s * 0.5))
                outcomes = await swarm.round([*brought[:2], None])
            assert slow.opened
            assert slow.opened[0][0] == 1
            assert len(outcomes[0].members) == 3
            assert torch.equal(late[0].mean, outcomes[0].mean)

    on_virtual_time(scenario())


def test_a_member_that_never_comes_is_left_out_after_the_grace_and_named() -> None:
    async def scenario() -> None:
        async with Swarm(3) as swarm:
            began = asyncio.get_running_loop().time()
            outcomes = await swarm.round([*gifts(3)[:2], None])
            took_s = asyncio.get_running_loop().time() - began
            assert took_s == pytest.approx(12.0, abs=0.5)  # half of averaging_timeout
            assert outcomes[0].members == ("tail.0.0.0", "tail.0.1.0")
            record = swarm.replicas[0].averager.rounds[-1]
            assert record.missing == ("tail.0.2.0",)
            assert "tail.0.2.0 (not ready)" in record.reason

    on_virtual_time(scenario())


def test_too_few_members_abort_and_name_who_was_missing() -> None:
    async def scenario() -> None:
        async with Swarm(4) as swarm:
            outcomes = await swarm.round([gifts(4)[0], None, None, None])
            assert isinstance(outcomes[0], RoundAborted)
            assert "no quorum: 1 of 4 ready" in str(outcomes[0])
            for uid in ("tail.0.1.0", "tail.0.2.0", "tail.0.3.0"):
                assert uid in str(outcomes[0])

    on_virtual_time(scenario())


def test_when_the_leader_is_silent_the_next_one_leads() -> None:
    async def scenario() -> None:
        async with Swarm(3) as swarm:
            dead = swarm.order()[0]
            swarm.network.cut(dead.rpc.peer_id)
            brought = gifts(3)
            outcomes = await swarm.round(
                [None if r is dead else brought[i] for i, r in enumerate(swarm.replicas)]
            )
            committed = [outcome for outcome in outcomes if outcome is not None]
            assert all(isinstance(outcome, Committed) for outcome in committed)
            assert torch.equal(committed[0].mean, committed[1].mean)
            assert dead.uid not in committed[0].members

    on_virtual_time(scenario())


METHODS = ("ready", "open", "plan", "chunk", "vote", "verdict")


@pytest.mark.parametrize("victim_rank", [0, 1, 2])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_survivors_of_a_death_at_any_message_agree(victim_rank: int, method: str, nth: int) -> None:
    """The victim is cut off when the n-th message of a kind reaches or leaves it."""

    async def scenario() -> None:
        async with Swarm(3) as swarm:
            victim = swarm.order()[victim_rank]
            seen = 0

            def watch(source: str, target: str, name: str) -> None:
                nonlocal seen
                if name == f"averaging.{method}" and victim.rpc.peer_id in (source, target):
                    seen += 1
                    if seen == nth:
                        swarm.network.cut(victim.rpc.peer_id)

            swarm.network.on_call = watch
            outcomes = await swarm.round(gifts(3, 5000))
            survivors = [
                o for r, o in zip(swarm.replicas, outcomes, strict=True) if r is not victim
            ]
            kinds = {type(outcome) for outcome in survivors}
            assert len(kinds) == 1, survivors
            if kinds == {Committed}:
                assert torch.equal(survivors[0].mean, survivors[1].mean)
            elif seen >= nth:
                assert all(victim.uid in str(o) for o in survivors), survivors

    on_virtual_time(scenario())


def test_a_member_that_stalls_mid_round_is_named_by_all() -> None:
    async def scenario() -> None:
        async with Swarm(3) as swarm:
            stalled = swarm.order()[1]
            for method in ("averaging.chunk", "averaging.vote"):
                swarm.network.delay(method, 1000.0, to=stalled.rpc.peer_id)
            original = stalled.rpc.call

            async def stuck(peer, method, message, **options):
                if method == "averaging.chunk":
                    await asyncio.sleep(100.0)
                return await original(peer, method, message, **options)

            stalled.rpc.call = stuck
            outcomes = await swarm.round(gifts(3, 5000))
            for outcome in outcomes:
                assert isinstance(outcome, RoundAborted)
            others = [o for r, o in zip(swarm.replicas, outcomes, strict=True) if r is not stalled]
            assert all(stalled.uid in str(outcome) for outcome in others), others

    on_virtual_time(scenario())


def test_after_an_abort_the_next_attempt_commits() -> None:
    async def scenario() -> None:
        async with Swarm(3) as swarm:
            await swarm.round([gifts(3)[0], None, None])
            outcomes = await swarm.round(gifts(3))
            assert all(isinstance(outcome, Committed) for outcome in outcomes)

    on_virtual_time(scenario())


def test_a_replica_that_missed_a_step_is_told_that_it_is_behind() -> None:
    async def scenario() -> None:
        async with Swarm(3) as swarm:
            await swarm.round([*gifts(3)[:2], None])
            # Its records have not arrived yet: the roster still says step 0 for all.
            missed = swarm.replicas[2]
            (outcome,) = [o for o in await swarm.round([None, None, gifts(3)[2]]) if o is not None]
            assert isinstance(outcome, RoundAborted)
            assert "behind" in str(outcome)
            assert missed.averager.behind(missed.uid).value
            assert not swarm.replicas[0].averager.behind("tail.0.0.0").value

    on_virtual_time(scenario())


def test_a_roster_with_a_newer_step_stops_a_replica_before_it_asks_anybody() -> None:
    async def scenario() -> None:
        async with Swarm(2) as swarm:
            swarm.replicas[1].step = 5
            outcomes = await swarm.round([gifts(2)[0], None])
            assert "tail.0.1.0 is at 5" in str(outcomes[0])
            assert swarm.network.calls == []

    on_virtual_time(scenario())


def test_a_diverged_replica_takes_no_part() -> None:
    async def scenario() -> None:
        async with Swarm(3) as swarm:
            swarm.replicas[1].anchor = "other"
            brought = gifts(3)
            brought[1].anchor_digest = "other"
            outcomes = await swarm.round(brought)
            assert isinstance(outcomes[1], RoundAborted)
            for index in (0, 2):
                assert outcomes[index].members == ("tail.0.0.0", "tail.0.2.0")

    on_virtual_time(scenario())


def test_two_halves_that_cannot_see_each_other_do_not_both_commit() -> None:
    async def scenario() -> None:
        async with Swarm(2) as swarm:
            swarm.network.cut("peer1")
            outcomes = await swarm.round(gifts(2))
            committed = [outcome for outcome in outcomes if isinstance(outcome, Committed)]
            assert len(committed) <= 1

    on_virtual_time(scenario())


def test_replicas_compare_digests_and_find_the_odd_one() -> None:
    async def scenario() -> None:
        async with Swarm(3) as swarm:
            held = ["same", "same", "odd"]

            async def tell(index: int) -> None:
                replica = swarm.replicas[index]
                agreements[index] = await replica.averager.exchange_digest(
                    replica.uid, 1, held[index]
                )

            agreements = {}
            async with asyncio.TaskGroup() as tasks:
                for index in range(3):
                    tasks.create_task(tell(index))
            for agreement in agreements.values():
                assert not agreement.identical
                assert agreement.majority == "same"
                assert agreement.holders == ("tail.0.0.0", "tail.0.1.0")

    on_virtual_time(scenario())


def test_small_rounds_take_few_messages() -> None:
    async def scenario() -> None:
        async with Swarm(2) as swarm:
            await swarm.round(gifts(2))
            # ready, plan, chunk, vote and verdict; what a leader tells itself is free.
            assert len(swarm.network.calls) <= 6, swarm.network.calls

    on_virtual_time(scenario())


def test_a_replica_that_is_gone_with_a_newer_step_holds_nobody_up_for_ever() -> None:
    async def scenario() -> None:
        async with Swarm(3) as swarm:
            ahead = swarm.replicas[2]
            ahead.step = 1  # it alone took the step
            outcomes = await swarm.round([*gifts(3)[:2], None])
            assert all(isinstance(outcome, RoundAborted) for outcome in outcomes[:2])
            swarm.network.cut(ahead.rpc.peer_id)
            ahead.step = 0  # its newer record is gone, an old one is still there
            await asyncio.sleep(swarm.config.averaging_timeout + 1)
            outcomes = await swarm.round([*gifts(3)[:2], None])
            assert all(isinstance(outcome, Committed) for outcome in outcomes[:2])

    on_virtual_time(scenario())


def test_two_replicas_on_one_daemon_average_like_any_others() -> None:
    async def scenario() -> None:
        async with Swarm(1) as swarm:
            (daemon,) = swarm.replicas
            twin = "tail.0.1.0"

            def roster() -> tuple[Member, ...]:
                peer = daemon.rpc.peer_id
                return tuple(Member(uid, peer, 0, "anchor") for uid in (daemon.uid, twin))

            daemon.averager.attach(daemon.uid, STAGE, roster)
            daemon.averager.attach(twin, STAGE, roster)
            brought = gifts(2, 5000)
            async with asyncio.TaskGroup() as tasks:
                rounds = [
                    tasks.create_task(daemon.averager.round(uid, gift))
                    for uid, gift in zip((daemon.uid, twin), brought, strict=True)
                ]
            for task in rounds:
                assert torch.equal(task.result().mean, dense_mean(brought))
            assert torch.equal(brought[0].pseudo_gradient, gifts(2, 5000)[0].pseudo_gradient)
            assert swarm.network.calls == []

    on_virtual_time(scenario())


def test_when_an_expert_is_detached_while_it_leads_the_others_go_on_without_it() -> None:
    async def scenario() -> None:
        async with Swarm(3) as swarm:
            leader = swarm.order()[0]
            brought = [None if r is leader else gifts(3)[i] for i, r in enumerate(swarm.replicas)]
            loop = asyncio.get_running_loop()
            loop.call_later(1.0, leader.averager.detach, leader.uid)
            outcomes = [o for o in await swarm.round(brought) if o is not None]
            assert all(isinstance(outcome, Committed) for outcome in outcomes), outcomes
            assert leader.uid not in outcomes[0].members
            with pytest.raises(ExpertNotFound):
                await leader.averager.round(leader.uid, gifts(1)[0])

    on_virtual_time(scenario())


def test_a_second_call_while_a_round_runs_is_refused() -> None:
    async def scenario() -> None:
        async with Swarm(2) as swarm:
            one = swarm.replicas[0]
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(swarm.round([gifts(2)[0], None]))
                await asyncio.sleep(1.0)
                with pytest.raises(RoundAborted, match="in a round already"):
                    await one.averager.round(one.uid, gifts(2)[0])

    on_virtual_time(scenario())


def test_a_caller_that_gives_up_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        async with Swarm(2) as swarm:
            one = swarm.replicas[0]
            task = asyncio.get_running_loop().create_task(one.averager.round(one.uid, gifts(2)[0]))
            await asyncio.sleep(1.0)
            task.cancel()
            await asyncio.wait([task])
            await asyncio.sleep(swarm.config.averaging_timeout)
            assert all(replica.averager.waiting() == () for replica in swarm.replicas)
            outcomes = await swarm.round(gifts(2))
            assert all(isinstance(outcome, Committed) for outcome in outcomes)

    on_virtual_time(scenario())


def test_rounds_follow_each_other_step_by_step() -> None:
    async def scenario() -> None:
        async with Swarm(3) as swarm:
            for step in range(12):
                brought = gifts(3)
                for gift in brought:
                    gift.outer_step, gift.anchor_digest = step, f"anchor{step}"
                for replica in swarm.replicas:
                    replica.step, replica.anchor = step, f"anchor{step}"
                outcomes = await swarm.round(brought, [0.0, 2.0, 3.0])
                assert [outcome.outer_step for outcome in outcomes] == [step + 1] * 3
            await asyncio.sleep(1.0)  # the last verdict may still be on its way
            records = swarm.replicas[0].averager.rounds
            assert [record.outer_step for record in records] == list(range(1, 13))
            seats = [r.averager._service.seats[r.uid] for r in swarm.replicas]
            assert all(not seat.leading for seat in seats)
            assert any(seat.arrivals_s for seat in seats)

    on_virtual_time(scenario())


def test_a_member_whose_records_are_ahead_of_its_peers_can_lead_the_next_step() -> None:
    """One replica applies a commit faster than the other; the slow one must not refuse it."""

    async def scenario() -> None:
        async with Swarm(2) as swarm:
            await swarm.round(gifts(2))
            fast = gifts(2)
            for gift in fast:
                gift.outer_step, gift.anchor_digest = 1, "next"
            swarm.replicas[0].step, swarm.replicas[0].anchor = 1, "next"
            # Replica 1 has not applied yet: its roster entry still says step 0.
            async with asyncio.TaskGroup() as tasks:
                first = tasks.create_task(swarm.round([fast[0], None]))
                await asyncio.sleep(3.0)
                swarm.replicas[1].step, swarm.replicas[1].anchor = 1, "next"
                second = tasks.create_task(swarm.round([None, fast[1]]))
            assert isinstance(first.result()[0], Committed)
            assert isinstance(second.result()[1], Committed)

    on_virtual_time(scenario())
