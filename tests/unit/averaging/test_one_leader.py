"""Members that see different rosters for a moment still meet in one round."""

import asyncio

from distqatd.averaging.records import Committed
from distqatd.averaging.roster import Member
from tests.support.averaging_swarm import STAGE, Swarm, gifts, on_virtual_time


def sees(swarm, replica, others):
    """Have a replica see only these replicas, itself included."""

    def roster():
        return tuple(Member(r.uid, r.rpc.peer_id, r.step, r.anchor) for r in (replica, *others))

    replica.averager.attach(replica.uid, STAGE, roster, replica.on_open)


def num_opened(swarm):
    return sum(
        event.kind == "round.opened"
        for replica in swarm.replicas
        for event in replica.averager._tools.events.since()
    )


async def meet(swarm, delays_s):
    """Let the replicas begin after these delays (by uid); return how many met, and seconds."""
    began = asyncio.get_running_loop().time()
    num = len(swarm.replicas)
    delays = [delays_s[replica.uid] for replica in swarm.replicas]
    outcomes = await swarm.round(gifts(num), delays)
    assert all(isinstance(outcome, Committed) for outcome in outcomes), outcomes
    assert len({outcome.digest for outcome in outcomes}) == 1
    return len(outcomes[0].members), asyncio.get_running_loop().time() - began


def test_a_member_that_does_not_see_the_leader_yet_is_sent_to_it():
    async def scenario():
        async with Swarm(3) as swarm:
            first, second, third = swarm.order()
            sees(swarm, third, [second])
            met, seconds = await meet(swarm, {first.uid: 0.0, second.uid: 0.0, third.uid: 0.1})
            assert (met, num_opened(swarm)) == (3, 1)
            assert seconds < 2.0

    on_virtual_time(scenario())


def test_a_member_joins_the_round_that_it_leads_already():
    async def scenario():
        async with Swarm(3) as swarm:
            first, second, third = swarm.order()
            sees(swarm, third, [second])
            met, seconds = await meet(swarm, {first.uid: 1.0, second.uid: 0.5, third.uid: 0.0})
            assert (met, num_opened(swarm)) == (3, 1)
            assert seconds < 3.0

    on_virtual_time(scenario())


def test_a_member_that_sees_nobody_does_not_go_alone_past_an_open_round():
    async def scenario():
        async with Swarm(2) as swarm:
            first, second = swarm.order()
            sees(swarm, second, [])
            met, _ = await meet(swarm, {first.uid: 0.0, second.uid: 1.0})
            assert (met, num_opened(swarm)) == (2, 1)

    on_virtual_time(scenario())


def test_an_invitation_that_is_over_binds_nobody():
    async def scenario():
        async with Swarm(2, quorum=1.0) as swarm:
            first, second = swarm.order()
            brought = gifts(2)
            [outcome] = [o for o in await swarm.round(only(swarm, first, brought)) if o is not None]
            assert "no quorum" in str(outcome)
            swarm.network.cut(first.rpc.peer_id)
            sees(swarm, second, [])
            began = asyncio.get_running_loop().time()
            outcome = await second.averager.round(second.uid, brought[0])
            assert outcome.members == (second.uid,)
            assert asyncio.get_running_loop().time() - began < 1.0

    on_virtual_time(scenario())


def only(swarm, replica, brought):
    return [gift if r is replica else None for r, gift in zip(swarm.replicas, brought, strict=True)]


def test_a_member_goes_on_to_the_next_leader_if_it_was_sent_to_a_dead_one():
    async def scenario():
        async with Swarm(4) as swarm:
            first, second, third, fourth = swarm.order()
            swarm.network.delay("averaging.ready", 1000.0, to=first.rpc.peer_id)
            sees(swarm, fourth, [second, third])
            outcomes = await swarm.round(
                [
                    None if r is first else gift
                    for r, gift in zip(swarm.replicas, gifts(4), strict=True)
                ],
                [0.1 if r is fourth else 0.0 for r in swarm.replicas],
            )
            assert sum(isinstance(outcome, Committed) for outcome in outcomes) == 3
            assert len({o.digest for o in outcomes if isinstance(o, Committed)}) == 1

    on_virtual_time(scenario())


def test_a_leader_that_does_not_know_a_replica_yet_reads_who_serves_before_it_closes():
    async def scenario():
        async with Swarm(3) as swarm:
            first, second, third = swarm.order()
            known = [second]

            def roster():
                return tuple(Member(r.uid, r.rpc.peer_id, 0, r.anchor) for r in (first, *known))

            async def refresh():
                await asyncio.sleep(0.05)
                known.append(third)

            first.averager.attach(first.uid, STAGE, roster, first.on_open, refresh)
            met, _ = await meet(swarm, {first.uid: 0.0, second.uid: 0.0, third.uid: 0.5})
            assert met == 3

    on_virtual_time(scenario())
