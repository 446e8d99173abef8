"""Random schedules: slow messages, links that break and heal, members that come late or never.

Whatever happens, two replicas never commit different bits, and of those who were never cut off
either all members of a plan commit or none does. `tests/sim/rounds` goes further: it loses and
repeats messages, restarts machines, and takes several steps.
"""

import asyncio
from random import Random

import pytest

from distqatd.averaging.records import Committed
from distqatd.averaging.reduce import Reducer
from distqatd.base.rng import seeded_rng
from tests.support.averaging_swarm import Replica, Swarm, gifts, on_virtual_time

METHODS = ("ready", "open", "plan", "prepare", "chunk", "vote", "accept", "verdict")


async def disturb(swarm: Swarm, victim: Replica, rng: Random) -> None:
    """Cut a peer off at some time, and perhaps let it come back."""
    await asyncio.sleep(rng.uniform(0, 14))
    swarm.network.cut(victim.rpc.peer_id)
    if rng.random() < 0.4:
        await asyncio.sleep(rng.uniform(0.1, 5))
        swarm.network.heal(victim.rpc.peer_id)


async def scenario(seed: int) -> None:
    rng = seeded_rng("churn", seed)
    num = rng.randint(2, 6)
    async with Swarm(num, seed) as swarm:
        for method in METHODS:
            for replica in swarm.replicas:
                delay_s = rng.choice([0.0, 0.01, rng.uniform(0, 1), rng.uniform(0, 3)])
                swarm.network.delay(f"averaging.{method}", delay_s, to=replica.rpc.peer_id)
        for replica in swarm.replicas:
            replica.executor.cost_s = rng.choice([0.0, 0.0, rng.uniform(0, 2)])
        victims = rng.sample(swarm.replicas, rng.randint(0, min(2, num - 1)))
        delays_s = [rng.uniform(0, 5) for _ in range(num)]
        async with asyncio.TaskGroup() as tasks:
            for victim in victims:
                tasks.create_task(disturb(swarm, victim, rng))
            outcomes = await swarm.round(gifts(num, 3000), delays_s)
    committed = [outcome for outcome in outcomes if isinstance(outcome, Committed)]
    assert len({outcome.digest for outcome in committed}) <= 1
    assert len({outcome.members for outcome in committed}) <= 1
    for replica in swarm.replicas:
        assert replica.averager.rounds[-1].reason
        assert replica.averager.waiting() == ()
    lived = {
        replica.uid: outcome
        for replica, outcome in zip(swarm.replicas, outcomes, strict=True)
        if replica not in victims
    }
    members = {uid for o in lived.values() if isinstance(o, Committed) for uid in o.members}
    assert all(isinstance(lived[uid], Committed) for uid in members & lived.keys()), lived


@pytest.mark.parametrize("block", range(5))
def test_no_schedule_makes_replicas_differ(block: int) -> None:
    for seed in range(block * 50, block * 50 + 50):
        try:
            on_virtual_time(scenario(seed))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


def test_an_owner_that_keeps_its_own_precision_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    async def one_round() -> list[object]:
        async with Swarm(3, codec="bf16") as swarm:
            return await swarm.round(gifts(3, 5000))

    assert all(isinstance(outcome, Committed) for outcome in on_virtual_time(one_round()))
    monkeypatch.setattr(Reducer, "_keep_as_sent", lambda *_: None)
    for outcome in on_virtual_time(one_round()):
        assert "members hold different means" in str(outcome)
